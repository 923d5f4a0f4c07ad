import type { Endpoint } from '#src/core/endpoint.ts';
import { quoteTable, type Table, type TableName } from '#src/core/table.ts';
import type { SelectedRelations } from '#src/db/postgres/catalog/catalog.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { createPartitions, dumpPartitions } from '#src/shadow/ddl/create-partitions.ts';
import { recordFirstVersions } from '#src/shadow/ddl/version-ledger.ts';
import { addRelations, type RelationRecord } from '#src/shadow/ledger.ts';
import { relaxExcluded } from '#src/shadow/schema/adjust-excluded.ts';
import { findExistingRelations } from '#src/shadow/schema/restore.ts';
import { nameOf } from '#src/shadow/schema/rows.ts';

export type ArrivalsDeps = {
  readonly source: Session;
  readonly target: Session;
  readonly sourceEndpoint: Endpoint;
  readonly shadowId: string;
  readonly signal: AbortSignal;
};

/**
 * Tables of the selection that appeared after the shadow was made. A partition of a partitioned table
 * that the target has is everyday DDL (trap 18): it is created there and put on record, so that the
 * follower publishes it, copies it and follows it. Any other table is on record as stopped, so that
 * nothing takes it for in sync, until an operator creates it on the target and asks for `reseed`.
 *
 * A partition without a key under a parent with REPLICA IDENTITY FULL is not published: partitions do not
 * inherit that setting, and production's UPDATE would fail (trap 7).
 */
export class Arrivals {
  readonly #deps: ArrivalsDeps;
  readonly #say: (message: string) => void;
  #isUnfinished = false;

  constructor(deps: ArrivalsDeps, say: (message: string) => void) {
    this.#deps = deps;
    this.#say = say;
  }

  /** Whether a partition could not be created yet, and is to be tried again. */
  get isUnfinished(): boolean {
    return this.#isUnfinished;
  }

  /** Take in what is new; the OIDs of the tables that were on record for the first time. */
  async take(
    records: readonly RelationRecord[],
    relations: SelectedRelations,
  ): Promise<readonly number[]> {
    const known = new Map(records.map((record) => [record.sourceOid, record]));
    const waiting = relations.tables.filter(({ oid }) => {
      const record = known.get(oid);
      return record === undefined || isArrival(record);
    });
    this.#isUnfinished = false;
    if (waiting.length === 0) return [];
    const adoptable = await this.#adoptable(waiting);
    for (const table of waiting.filter((one) => !adoptable.includes(one) && !known.has(one.oid))) {
      await this.#recordArrival(table, records);
    }
    if (adoptable.length > 0) await this.#adopt(adoptable, records);
    return waiting.filter(({ oid }) => !known.has(oid)).map(({ oid }) => oid);
  }

  /** Partitions that the target can have and that can be published. */
  async #adoptable(tables: readonly Table[]): Promise<readonly Table[]> {
    const partitions = tables.filter((table) => table.partitionRoot !== undefined);
    if (partitions.length === 0) return [];
    const roots = partitions.flatMap(({ partitionRoot }) => partitionRoot ?? []);
    const { target } = this.#deps;
    const rooted = new Set((await findPartitioned(target, roots)).map(quoteTable));
    const taken = new Set((await findExistingRelations(target, partitions)).map(quoteTable));
    return partitions.filter((table) => {
      const { partitionRoot: root } = table;
      if (root === undefined || !rooted.has(quoteTable(root))) return false;
      if (taken.has(quoteTable(table))) {
        this.#say(
          `partition ${quoteTable(table)} appeared on the source; the target has a table of that name already`,
        );
        return false;
      }
      if (table.key.length > 0 || table.replicaIdentity === 'f') return true;
      this.#say(
        `partition ${quoteTable(table)} appeared on the source without a key and is not followed, since production's ` +
          `UPDATE would fail: run ALTER TABLE ${quoteTable(table)} REPLICA IDENTITY FULL on the source`,
      );
      return false;
    });
  }

  async #adopt(tables: readonly Table[], records: readonly RelationRecord[]): Promise<void> {
    const { source, target, sourceEndpoint, shadowId, signal } = this.#deps;
    const names = tables.map(quoteTable).join(', ');
    try {
      const inner = await missing(target, await readAncestors(source, tables));
      const script = await dumpPartitions({
        source: sourceEndpoint,
        tables: [...inner, ...tables],
        signal,
      });
      // Before the tables are on record: whatever they become later is compared with it.
      await recordFirstVersions(
        { source, target },
        shadowId,
        tables.map(({ oid }) => oid),
      );
      await target.transaction(async () => {
        await createPartitions(target, shadowId, script);
        await relaxExcluded(target, shadowId, tables);
        const arrivals = records.filter(isArrival).map(({ sourceOid }) => String(sourceOid));
        await target.execute(
          `DELETE FROM understudy.relation
            WHERE shadow_id = $1 AND source_oid = ANY ($2::bigint[]) AND source_oid = ANY ($3::bigint[])`,
          [shadowId, arrivals, tables.map(({ oid }) => String(oid))],
        );
        await addRelations(target, shadowId, tables);
      });
      this.#say(
        `partition ${names} appeared on the source; it was created on the target and is brought in`,
      );
    } catch (error) {
      signal.throwIfAborted();
      if (!(error instanceof OperatorError) || !RETRIED.has(error.code)) throw error;
      this.#isUnfinished = true;
      this.#say(`partition ${names} could not be created on the target yet: ${error.message}`);
    }
  }

  async #recordArrival(table: Table, records: readonly RelationRecord[]): Promise<void> {
    const { target, shadowId } = this.#deps;
    const name = quoteTable(table);
    if (records.some((record) => quoteTable(record) === name)) {
      // One row a name: that of the table which is gone stops, and `reseed` takes the new one in its place.
      this.#say(
        `table ${name} of the source is another one of that name now; it waits for \`understudy reseed\``,
      );
      return;
    }
    await target.execute(
      `INSERT INTO understudy.relation (shadow_id, source_oid, schema_name, table_name, state,
                                        stop_code, stop_message, waits_for, stopped_at)
       VALUES ($1, $2, $3, $4, 'stopped', 'TABLE_CHANGED',
               'it appeared on the source after the shadow was made', 'reseed', now())
       ON CONFLICT DO NOTHING`,
      [shadowId, table.oid, table.schema, table.name],
    );
    this.#say(
      `table ${name} appeared on the source and is not followed; it waits for \`understudy reseed\``,
    );
  }
}

/** What another look may find in order: locks, rows that are still to leave the default partition, a name that is gone. */
const RETRIED: ReadonlySet<string> = new Set(['SCHEMA_RESTORE_FAILED', 'SCHEMA_DUMP_FAILED']);

/** On record only so that it is seen: it never had a copy. */
function isArrival(record: RelationRecord): boolean {
  return record.state === 'stopped' && record.columns.length === 0 && record.startLsn === undefined;
}

/** Those of `tables` that are partitioned tables of the target. */
async function findPartitioned(
  target: Session,
  tables: readonly TableName[],
): Promise<readonly TableName[]> {
  const rows = await target.query(
    `SELECT DISTINCT n.nspname, c.relname
       FROM unnest($1::text[], $2::text[]) AS t (nspname, relname)
       JOIN pg_catalog.pg_namespace n USING (nspname)
       JOIN pg_catalog.pg_class c
         ON c.relnamespace = n.oid AND c.relname = t.relname AND c.relkind = 'p'`,
    [tables.map(({ schema }) => schema), tables.map(({ name }) => name)],
  );
  return rows.map(nameOf);
}

/** The partitioned tables above these, at any level. */
async function readAncestors(
  source: Session,
  tables: readonly Table[],
): Promise<readonly TableName[]> {
  const rows = await source.query(
    `SELECT DISTINCT n.nspname, c.relname
       FROM unnest($1::oid[]) AS t (oid)
       CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(t.oid) AS a (oid)
       JOIN pg_catalog.pg_class c ON c.oid = a.oid AND c.relkind = 'p'
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`,
    [tables.map(({ oid }) => String(oid))],
  );
  return rows.map(nameOf);
}

async function missing(
  target: Session,
  tables: readonly TableName[],
): Promise<readonly TableName[]> {
  if (tables.length === 0) return [];
  const found = new Set((await findExistingRelations(target, tables)).map(quoteTable));
  return tables.filter((table) => !found.has(quoteTable(table)));
}

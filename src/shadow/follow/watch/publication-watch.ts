import { quoteTable } from '#src/core/table.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import { type Publication, publishedPartSql, requirePublication } from '#src/shadow/publication.ts';

type PublishedTable = {
  readonly entry: string;
  readonly part: string;
  readonly exists: boolean;
  /** It is not in it and could not be: the change that made it so stops it. */
  readonly isUnwritable: boolean;
};

/**
 * Watches that the publication still sends every change of every table. Whoever alters it makes the
 * source skip changes in silence: one that was made again (trap 14), a table taken out of it, a row
 * filter, a column list, an operation that is left out. That it was put right again, while nobody looked,
 * does not bring the changes back, so it is compared with what the ledger has of it.
 */
export class PublicationWatch {
  readonly #publication: Publication;
  #followed: readonly RelationRecord[];
  /** The others of the ledger, by OID. */
  #away: ReadonlySet<number>;
  #fingerprint = '';

  constructor(publication: Publication, records: readonly RelationRecord[]) {
    this.#publication = publication;
    this.#followed = records.filter(isFollowed);
    this.#away = oidsOf(records.filter((one) => !isFollowed(one)));
  }

  /**
   * Watch those that follow by now, given the ledger's tables that do not. Whatever becomes of the entry of
   * one that has stopped is no harm to the others; one that is back, whoever brought it, is looked at anew.
   */
  async keepUp(
    away: readonly RelationRecord[],
    readAll: () => Promise<readonly RelationRecord[]>,
  ): Promise<void> {
    const now = oidsOf(away);
    if ([...this.#away].some((oid) => !now.has(oid))) {
      const records = await readAll();
      this.#followed = records.filter(isFollowed);
      this.#away = oidsOf(records.filter((one) => !isFollowed(one)));
      this.#fingerprint = '';
      return;
    }
    this.#away = now;
    if (!this.#followed.some(({ sourceOid }) => now.has(sourceOid))) return;
    this.#followed = this.#followed.filter(({ sourceOid }) => !now.has(sourceOid));
  }

  /** Throws PUBLICATION_CHANGED. */
  async check(source: Session): Promise<void> {
    await requirePublication(source, this.#publication);
    const [row] = await source.query(
      `SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.pubviaroot
                AS is_complete,
              (SELECT concat_ws(' ', p.xmin, count(*), sum(r.oid::int8), max(r.xmin::text::int8))
                 FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid) AS fingerprint
         FROM pg_catalog.pg_publication p WHERE p.oid = $1`,
      [this.#publication.oid],
    );
    if (row === undefined) throw this.#changed('was dropped on the source');
    if (row['is_complete'] !== 't')
      throw this.#changed('does not publish every operation any more');
    // The tables are looked at one by one only when something about them may have changed.
    if (row['fingerprint'] === this.#fingerprint) return;
    const followed = this.#followed;
    await this.#checkTables(source);
    // One that came meanwhile was not looked at.
    if (followed === this.#followed) this.#fingerprint = row['fingerprint'] ?? '';
  }

  async #checkTables(source: Session): Promise<void> {
    const entries = await this.#readEntries(source);
    for (const record of this.#followed) {
      const entry = entries.get(record.sourceOid);
      // A table that was dropped took its entry along; one without a replica identity was taken out (trap 7).
      if (entry?.exists !== true || entry.isUnwritable) continue;
      const table = quoteTable(record);
      if (entry.entry === '') throw this.#changed(`does not publish table ${table} any more`);
      if (entry.part !== record.published) {
        throw this.#changed(
          `was altered since it was made, and may not have published table ${table} for a while`,
        );
      }
    }
  }

  async #readEntries(source: Session): Promise<ReadonlyMap<number, PublishedTable>> {
    const rows = await source.query(
      `SELECT t.oid, r.oid AS entry, c.oid IS NOT NULL AS exists,
              ${publishedPartSql(source.serverVersion)} AS part,
              r.oid IS NULL AND CASE c.relreplident
                WHEN 'f' THEN false WHEN 'n' THEN true
                ELSE NOT EXISTS (SELECT FROM pg_catalog.pg_index x
                                  WHERE x.indrelid = c.oid AND x.indisvalid AND x.indimmediate
                                    AND CASE c.relreplident WHEN 'd' THEN x.indisprimary
                                                            ELSE x.indisreplident END)
              END AS is_unwritable
         FROM unnest($1::oid[]) AS t (oid)
         LEFT JOIN pg_catalog.pg_class c ON c.oid = t.oid
         LEFT JOIN pg_catalog.pg_publication_rel r ON r.prrelid = t.oid AND r.prpubid = $2::oid`,
      [this.#followed.map(({ sourceOid }) => String(sourceOid)), this.#publication.oid],
    );
    return new Map(
      rows.map((row) => [
        Number(row['oid']),
        {
          entry: row['entry'] ?? '',
          part: row['part'] ?? '',
          exists: row['exists'] === 't',
          isUnwritable: row['is_unwritable'] === 't',
        },
      ]),
    );
  }

  #changed(what: string): OperatorError {
    return new OperatorError(
      'PUBLICATION_CHANGED',
      `publication ${this.#publication.name} ${what}`,
    );
  }
}

function isFollowed({ state, isInLane }: RelationRecord): boolean {
  return state !== 'stopped' && !isInLane;
}

function oidsOf(records: readonly RelationRecord[]): ReadonlySet<number> {
  return new Set(records.map(({ sourceOid }) => sourceOid));
}

import type { Chunking } from '#src/core/chunk.ts';
import { type Lsn, lsn } from '#src/core/lsn.ts';
import { followedTable, type FollowedTable } from '#src/shadow/follow/apply/followed-table.ts';
import type { RelationRecord } from '#src/shadow/ledger.ts';
import type { ValueFormat } from '#src/wire/postgres/apply-encoder.ts';

export type TestTable = {
  readonly oid: number;
  readonly name?: string;
  /** Name and type OID of each column. */
  readonly columns: Readonly<Record<string, number>>;
  readonly key: readonly string[];
  readonly format?: ValueFormat;
  readonly chunking?: Chunking;
  readonly startLsn?: Lsn;
  readonly state?: RelationRecord['state'];
};

/** A followed table without a database: its columns on the target are those of the source. */
export function testFollowedTable(table: TestTable): FollowedTable {
  const columns = Object.entries(table.columns).map(([name, typeOid], i) => ({
    name,
    attnum: i + 1,
    typeOid,
  }));
  return followedTable({
    record: {
      schema: 'public',
      name: table.name ?? `t${table.oid}`,
      sourceOid: table.oid,
      state: table.state ?? 'copied',
      startLsn: table.startLsn ?? lsn(0n),
      key: table.key,
      columns,
      isInLane: false,
      appliedLsn: undefined,
      rows: 0,
      stop: undefined,
      isSpooled: false,
      spoolBytes: 0,
      published: '',
    },
    targetColumns: new Map(
      columns.map(({ name, typeOid }) => [
        name,
        {
          name,
          typeOid,
          arrayOid: 0,
          typeName: 'text',
          typeModifier: -1,
          isArray: false,
          isCastInput: true,
          hasKnownLength: true,
          equality: '=',
        },
      ]),
    ),
    chunking: table.chunking,
    format: table.format ?? 'text',
  });
}

/**
 * Whether a server sends every change of a table that is put into a publication while a slot is read. Older
 * ones can lose them: a transaction that wrote to the table before the ALTER PUBLICATION, and commits after it,
 * is decoded with the catalog of before, and the walsender keeps "not published" for every later one. Fixed by
 * PostgreSQL's commit 4909b38af ("Distribute invalidation messages to in-progress transactions").
 */

/** The first minor version with the fix; every version of later majors has it. */
const FIXED_MINORS: Readonly<Record<number, number>> = { 14: 18, 15: 13, 16: 9, 17: 5 };
const FIXED_MAJOR = 18;

/** Of a `server_version_num`, the version to update to first, such as `14.18`; undefined when it is safe. */
export function fixedVersion(serverVersion: number): string | undefined {
  const major = Math.floor(serverVersion / 10_000);
  if (major >= FIXED_MAJOR) return undefined;
  const minor = FIXED_MINORS[major];
  if (minor === undefined) return `${FIXED_MAJOR}.0`;
  return serverVersion % 10_000 >= minor ? undefined : `${major}.${minor}`;
}

/** A `server_version_num` as people say it. */
export function describeVersion(serverVersion: number): string {
  return `${Math.floor(serverVersion / 10_000)}.${serverVersion % 10_000}`;
}

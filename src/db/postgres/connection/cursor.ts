import type { Row, Session } from './session.ts';

/**
 * The rows of a query in batches, so that memory does not grow with them. Inside a transaction only; one
 * cursor of a name at a time.
 */
export async function* readCursor(
  session: Session,
  options: { readonly name: string; readonly sql: string; readonly batchRows: number },
): AsyncGenerator<readonly Row[]> {
  const { name, sql, batchRows } = options;
  await session.query(`DECLARE ${name} NO SCROLL CURSOR FOR ${sql}`);
  for (;;) {
    const rows = await session.query(`FETCH ${batchRows} FROM ${name}`);
    if (rows.length > 0) yield rows;
    if (rows.length < batchRows) break;
  }
  await session.query(`CLOSE ${name}`);
}

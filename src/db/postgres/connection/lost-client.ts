import { sqlstateOf } from './server-error.ts';

/**
 * Let a backend end soon after its client was killed. One that waits for a lock, or reads on for hours,
 * does not see it otherwise. Not every platform of a server can tell.
 */
export async function noticeLostClient(connection: {
  readonly query: (sql: string) => Promise<unknown>;
}): Promise<void> {
  await connection.query(`SET client_connection_check_interval = '2s'`).catch((error: unknown) => {
    // invalid_parameter_value
    if (sqlstateOf(error) !== '22023') throw error;
  });
}

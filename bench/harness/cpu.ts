import { readFile } from 'node:fs/promises';

/** USER_HZ, which Linux fixes at 100 for everything that user space sees. */
const TICKS_PER_SECOND = 100;

/**
 * CPU seconds that a Postgres server has used so far: of the postmaster, of its living children, and of
 * those that have ended (the postmaster has waited for them). `undefined` where there is no /proc.
 */
export async function serverCpuSeconds(processId: number): Promise<number | undefined> {
  try {
    const children = await readFile(`/proc/${processId}/task/${processId}/children`, 'utf8');
    const living = await Promise.all(
      children
        .split(' ')
        .filter((id) => id.trim() !== '')
        // One that ends while we look is counted with the ended ones the next time.
        .map(async (id) => readTicks(id.trim(), false).catch(() => 0)),
    );
    const own = await readTicks(String(processId), true);
    return living.reduce((a, b) => a + b, own) / TICKS_PER_SECOND;
  } catch {
    return undefined;
  }
}

/** https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, fields 14 to 17. */
async function readTicks(processId: string, isWithEnded: boolean): Promise<number> {
  const stat = await readFile(`/proc/${processId}/stat`, 'utf8');
  // The name, in parentheses, may hold spaces. What follows it begins with field 3.
  const fields = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [user = 0, system = 0, endedUser = 0, endedSystem = 0] = fields.slice(11, 15);
  return user + system + (isWithEnded ? endedUser + endedSystem : 0);
}

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/*
 * Loaded before the product by `node --import`, for the soak only: each SIGUSR2 collects all garbage, and
 * writes the megabytes that are in use then into a file that has the name of the process.
 */
setFlagsFromString('--expose-gc');
const collect: () => void = runInNewContext('gc');
const folder = process.env['UNDERSTUDY_SOAK_HEAPS'] ?? '';

process.on('SIGUSR2', () => {
  collect();
  const { heapUsed, external } = process.memoryUsage();
  writeFileSync(join(folder, String(process.pid)), String((heapUsed + external) / 2 ** 20));
});

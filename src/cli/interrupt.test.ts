import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

import { expect, test } from 'vitest';

test('one Ctrl-C that arrives twice is one; a later one ends the process at once', () => {
  const { status, stdout } = spawnSync(
    process.execPath,
    [
      '--input-type=module-typescript',
      '--eval',
      `import { interruptSignal } from '#src/cli/interrupt.ts';
       const signal = interruptSignal(process);
       process.emit('SIGINT');
       console.log(signal.aborted);
       process.emit('SIGINT');
       console.log('stopping');
       setTimeout(() => process.emit('SIGINT'), 600);
       setTimeout(() => console.log('never said'), 5_000);`,
    ],
    { cwd: join(import.meta.dirname, '../..'), encoding: 'utf8' },
  );
  expect(stdout).toBe('true\nstopping\n');
  expect(status).toBe(130);
});

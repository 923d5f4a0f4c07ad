/** Runs the copy that standard input describes, so that a test can kill it. */
import { text } from 'node:stream/consumers';

import { runCopy } from './copy.ts';

await runCopy(JSON.parse(await text(process.stdin)));

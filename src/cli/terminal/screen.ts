import { createLogUpdate } from 'log-update';

import type { CliEvent } from '#src/cli/events.ts';
import type { ResultLine } from '#src/cli/lines.ts';
import type { OutputStream } from '#src/cli/shell.ts';
import type { Clock } from '#src/lib/clock.ts';

import { frameLines } from './frame.ts';
import { paintLine } from './line.ts';
import { type Paint, paintFor, plainPaint } from './paint.ts';
import { createThrottle, plainLine } from './plain.ts';
import { createView, observe } from './view.ts';

/** Where a command shows what it does: a live region, plain lines, or JSON lines. */
export type Screen = {
  readonly isJson: boolean;
  readonly columns: number;
  readonly paint: Paint;
  /** Something happened; shown as it fits. */
  readonly report: (event: CliEvent) => void;
  /** A result that stays: an object for --json, text for people, above the picture or after its end. */
  readonly print: (line: ResultLine, text: readonly string[]) => void;
  /** The user has asked for the end; say that it was heard. */
  readonly stopping: () => void;
  /** Leaves the last picture where it is; what is printed from now on comes below it. */
  readonly end: () => void;
};

export type ScreenOptions = {
  readonly stdout: OutputStream;
  readonly clock: Clock;
  readonly isJson: boolean;
  /** A log on the same terminal would tear the live region apart, and so would a dumb terminal. */
  readonly isLiveAllowed: boolean;
  readonly title: string;
};

const COLUMNS_DEFAULT = 80;
const REDRAW_MS = 100;

export function createScreen(options: ScreenOptions): Screen {
  if (options.isJson) return createJsonScreen(options);
  return options.stdout.isTTY === true && options.isLiveAllowed
    ? createLiveScreen(options)
    : createPlainScreen(options);
}

function createJsonScreen({ stdout, clock }: ScreenOptions): Screen {
  const write = (line: object): void => {
    stdout.write(`${JSON.stringify({ ...line, time: new Date(clock.now()).toISOString() })}\n`);
  };
  return {
    isJson: true,
    columns: COLUMNS_DEFAULT,
    paint: plainPaint,
    report: write,
    print: write,
    stopping: () => undefined,
    end: () => undefined,
  };
}

function createPlainScreen({ stdout, clock }: ScreenOptions): Screen {
  const view = createView(clock.now());
  const isDue = createThrottle();
  return {
    isJson: false,
    columns: stdout.columns ?? COLUMNS_DEFAULT,
    paint: paintFor(stdout),
    report: (event) => {
      const nowMs = clock.now();
      observe(view, event, nowMs);
      const text = isDue(event, nowMs) ? plainLine(view, event) : undefined;
      if (text !== undefined) {
        stdout.write(`${new Date(nowMs).toISOString().slice(11, 19)}Z ${text}\n`);
      }
    },
    print: (_line, text) => {
      for (const line of text) stdout.write(`${line}\n`);
    },
    stopping: () => undefined,
    end: () => undefined,
  };
}

/** Redraws at most ten times a second, and at least once, so that clocks tick while nothing happens. */
function createLiveScreen({ stdout, clock, title }: ScreenOptions): Screen {
  const view = createView(clock.now());
  const paint = paintFor(stdout);
  const log = createLogUpdate(stdout);
  let isStarted = false;
  let isEnded = false;
  let isStale = false;
  let drawnMs = 0;
  const draw = (): void => {
    const columns = stdout.columns ?? COLUMNS_DEFAULT;
    const nowMs = clock.now();
    const lines = frameLines(view, { nowMs, columns, title });
    // One row is the cursor's: a region as high as the terminal would scroll it.
    const height = Math.max(1, (stdout.rows ?? 24) - 1);
    log(
      lines
        .slice(0, height)
        .map((line) => paintLine(line, columns, paint))
        .join('\n'),
    );
    isStale = false;
    drawnMs = nowMs;
  };
  const timer = setInterval(() => {
    if (isStarted && (isStale || clock.now() - drawnMs >= 1000)) draw();
  }, REDRAW_MS).unref();
  return {
    isJson: false,
    columns: stdout.columns ?? COLUMNS_DEFAULT,
    paint,
    report: (event) => {
      if (isEnded) return;
      observe(view, event, clock.now());
      isStarted = true;
      isStale = true;
    },
    print: (_line, text) => {
      if (text.length === 0) return;
      if (isStarted && !isEnded) log.persist(text.join('\n'));
      else stdout.write(`${text.join('\n')}\n`);
    },
    stopping: () => {
      view.isStopping = true;
      isStale = true;
    },
    end: () => {
      if (isEnded) return;
      isEnded = true;
      view.isStopping = false;
      clearInterval(timer);
      if (isStarted) draw();
      log.done();
    },
  };
}

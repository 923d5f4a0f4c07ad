import { pino } from 'pino';

/** Facts of one log line: names and positions, never row values or secrets (I14). */
type Fields = Readonly<Record<string, unknown>>;

/** Level is consequence: error = someone must act, warn = degraded and healing, info = phase change. */
export type Logger = {
  readonly error: (fields: Fields, message: string) => void;
  readonly warn: (fields: Fields, message: string) => void;
  readonly info: (fields: Fields, message: string) => void;
  readonly debug: (fields: Fields, message: string) => void;
  readonly child: (fields: Fields) => Logger;
};

export type LogLevel = 'error' | 'warn' | 'info' | 'debug' | 'silent';

/** One JSON object a line on standard error, written before the call returns. */
export function createLogger(level: LogLevel): Logger {
  return pino(
    { level, base: null, timestamp: pino.stdTimeFunctions.isoTime },
    pino.destination({ dest: 2, sync: true }),
  );
}

import { type Lsn, parseLsn } from '#src/core/lsn.ts';
import { OperatorError } from '#src/lib/errors.ts';

/** What the text of an option must be: `parse` gives undefined on anything else. */
export type ValueKind<T> = {
  /** Completes "must be …"; also the limits that `--help` prints. */
  readonly expected: string;
  readonly parse: (text: string) => T | undefined;
};

const SIZE_UNITS: Readonly<Record<string, number>> = {
  B: 1,
  KB: 2 ** 10,
  MB: 2 ** 20,
  GB: 2 ** 30,
  TB: 2 ** 40,
};

export function integer(limits: { min: number; max: number }): ValueKind<number> {
  return {
    expected: `a whole number from ${limits.min} to ${limits.max}`,
    parse: (text) => {
      if (!/^\d{1,15}$/.test(text)) return undefined;
      const value = Number(text);
      return value >= limits.min && value <= limits.max ? value : undefined;
    },
  };
}

/** Bytes. Units are Postgres's own: 1GB is 1024MB. `min` and `max` are written the same way. */
export function size(limits: { min: string; max: string }): ValueKind<number> {
  const min = parseSize(limits.min) ?? 0;
  const max = parseSize(limits.max) ?? Number.MAX_SAFE_INTEGER;
  return {
    expected: `a size from ${limits.min} to ${limits.max} with a unit, such as 512MB`,
    parse: (text) => {
      const bytes = parseSize(text);
      return bytes !== undefined && bytes >= min && bytes <= max ? bytes : undefined;
    },
  };
}

/** `10GB`, `1.5 GB`, `512mb` in bytes; a bare number is refused, since its unit would be a guess. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)\s*([kmgt]?b)$/i.exec(text.trim());
  const unit = SIZE_UNITS[match?.[2]?.toUpperCase() ?? ''];
  return unit === undefined ? undefined : Math.floor(Number(match?.[1]) * unit);
}

const DURATION_UNITS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** Milliseconds, or 0 for `off`. */
export function durationOrOff(limits: { min: string; max: string }): ValueKind<number> {
  const min = parseDuration(limits.min) ?? 0;
  const max = parseDuration(limits.max) ?? Number.MAX_SAFE_INTEGER;
  return {
    expected: `a time from ${limits.min} to ${limits.max} with a unit (s, m, h, d), such as 30s, or off`,
    parse: (text) => {
      if (text === 'off') return 0;
      const ms = parseDuration(text);
      return ms !== undefined && ms >= min && ms <= max ? ms : undefined;
    },
  };
}

/** `30s`, `1.5 h`, `500ms` in milliseconds; a bare number is refused, since its unit would be a guess. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)\s*(ms|[smhd])$/.exec(text.trim());
  const unit = DURATION_UNITS[match?.[2] ?? ''];
  return unit === undefined ? undefined : Math.floor(Number(match?.[1]) * unit);
}

export const position: ValueKind<Lsn> = {
  expected: 'a WAL position such as 16/B374D848',
  parse: parseLsn,
};

export function oneOf<const T extends string>(words: readonly T[]): ValueKind<T> {
  return {
    expected: `one of ${words.join(', ')}`,
    parse: (text) => words.find((word) => word === text),
  };
}

export const pattern: ValueKind<string> = {
  expected: 'a name or pattern such as shop.order*',
  parse: (text) => (text === '' ? undefined : text),
};

export const path: ValueKind<string> = {
  expected: 'a path',
  parse: (text) => (text === '' || text.includes('\0') ? undefined : text),
};

/** The URL of a database, or a name that the --config file defines. Its parts are checked where it is resolved. */
export const store: ValueKind<string> = {
  expected: 'a URL such as postgres://user@host:5432/database, or a name of the --config file',
  parse: (text) => (text.trim() === '' ? undefined : text),
};

/** Throws CONFIG_INVALID naming option and value; a store's value is not repeated, it may hold a password. */
export function parseOption<T>(option: string, kind: ValueKind<T>, text: string): T {
  const value = kind.parse(text);
  if (value !== undefined) return value;
  const shown = text.includes('@') ? '' : `, not '${text}'`;
  throw new OperatorError('CONFIG_INVALID', `${option} must be ${kind.expected}${shown}`, {
    detail: { option },
  });
}

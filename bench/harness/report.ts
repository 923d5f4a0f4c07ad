import { availableParallelism, cpus, totalmem } from 'node:os';

import type { Contender, Sample } from './rounds.ts';
import { SERVER_SETTINGS } from './servers.ts';
import { type Ratio, ratioOf, ROUNDS_MIN, type Spread, spreadOf } from './statistics.ts';

export type ReportOptions = {
  readonly benchmark: string;
  readonly serverVersion: string;
  readonly scale: number;
  readonly rounds: number;
  /** What was worked on, such as `wide: 600,000 rows`. */
  readonly data: string;
  /** What CPU is counted by: `amount` units of `unit`, such as 1.2 GB or 4 times 100k changes. */
  readonly work: { readonly amount: number; readonly unit: string };
  readonly notes: readonly string[];
};

type Line = {
  readonly name: string;
  readonly isReference: boolean;
  readonly seconds: Spread;
  readonly cpuPerUnit: number | undefined;
  readonly serverCpu: number | undefined;
  readonly extra: Readonly<Record<string, number>>;
  /** By the name of the reference. */
  readonly ratios: Readonly<Record<string, Ratio>>;
};

/** Print a table to read and one JSON line to keep. */
export function printReport(
  options: ReportOptions,
  contenders: readonly Contender[],
  samples: readonly Sample[],
): void {
  const lines = contenders.map((contender) => lineOf(contender, contenders, samples, options));
  const machine = {
    cores: availableParallelism(),
    cpu: cpus()[0]?.model ?? 'unknown',
    memoryGb: Math.round(totalmem() / 2 ** 30),
    node: process.version,
  };
  console.log(
    [
      `${options.benchmark}: ${options.data} (scale ${options.scale}), ${options.rounds} rounds`,
      `machine: ${machine.cores} cores, ${machine.cpu}, ${machine.memoryGb} GB; Node ${machine.node}; both servers, tools and this share it`,
      `servers: Postgres ${options.serverVersion}, ${describeSettings()}`,
      '',
      ...tableLines(lines, options),
      '',
      ...explanations(lines, options),
      '',
    ].join('\n'),
  );
  const { notes: _, ...facts } = options;
  const kept = { ...facts, machine, settings: SERVER_SETTINGS, lines, samples };
  console.log(JSON.stringify(kept, (_key, value) => rounded(value)));
}

/** To four decimals: the rest is noise. */
function rounded(value: unknown): unknown {
  return typeof value === 'number' ? Math.round(value * 1e4) / 1e4 : value;
}

function describeSettings(): string {
  return Object.entries(SERVER_SETTINGS)
    .map(([name, value]) => `${name}=${value}`)
    .join(' ');
}

function lineOf(
  contender: Contender,
  contenders: readonly Contender[],
  samples: readonly Sample[],
  { work }: ReportOptions,
): Line {
  const own = samplesOf(samples, contender.name);
  const references = contenders.filter(({ isReference, name }) => {
    return isReference && name !== contender.name;
  });
  const cpu = medianOf(own.map(({ cpuSeconds }) => cpuSeconds));
  const extraNames = Object.keys(own[0]?.extra ?? {});
  return {
    name: contender.name,
    isReference: contender.isReference,
    seconds: spreadOf(own.map(({ seconds }) => seconds)),
    cpuPerUnit: cpu === undefined ? undefined : cpu / work.amount,
    serverCpu: medianOf(own.map(({ serverCpuSeconds }) => serverCpuSeconds)),
    extra: Object.fromEntries(
      extraNames.map((name) => [name, medianOf(own.map(({ extra }) => extra?.[name])) ?? 0]),
    ),
    ratios: Object.fromEntries(
      references.map(({ name }) => [name, compare(samplesOf(samples, name), own)]),
    ),
  };
}

/** In the order of the rounds. */
function samplesOf(samples: readonly Sample[], contender: string): readonly Sample[] {
  return samples
    .filter((sample) => sample.contender === contender)
    .toSorted((a, b) => a.round - b.round);
}

function compare(reference: readonly Sample[], own: readonly Sample[]): Ratio {
  return ratioOf(
    reference.map(({ seconds }) => seconds),
    own.map(({ seconds }) => seconds),
  );
}

function medianOf(values: readonly (number | undefined)[]): number | undefined {
  const known = values.filter((value) => value !== undefined);
  return known.length === 0 ? undefined : spreadOf(known).median;
}

function tableLines(lines: readonly Line[], { work }: ReportOptions): readonly string[] {
  const references = lines.filter(({ isReference }) => isReference).map(({ name }) => name);
  const extras = [...new Set(lines.flatMap(({ extra }) => Object.keys(extra)))];
  const header = [
    '',
    'median s',
    'min..max',
    ...references.map((name) => `x ${name}`),
    `CPU s per ${work.unit}`,
    'servers CPU s',
    ...extras,
  ];
  const rows = lines.map((line) => [
    line.name,
    line.seconds.median.toFixed(2),
    `${line.seconds.min.toFixed(2)}..${line.seconds.max.toFixed(2)}`,
    ...references.map((name) => describeRatio(line.ratios[name], line.name === name)),
    line.cpuPerUnit?.toFixed(3) ?? '',
    line.serverCpu?.toFixed(1) ?? '',
    ...extras.map((name) => line.extra[name]?.toFixed(2) ?? ''),
  ]);
  const cells = [header, ...rows];
  const widths = header.map((_, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  );
  return [header, widths.map((width) => '-'.repeat(width)), ...rows].map(
    (row) => `| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | ')} |`,
  );
}

function describeRatio(ratio: Ratio | undefined, isItself: boolean): string {
  if (isItself) return '1';
  if (ratio === undefined || ratio.kind === 'refused') return 'refused';
  const { median, min, max, isIndication } = ratio;
  return `${isIndication ? '~' : ''}${median.toFixed(2)} [${min.toFixed(2)}..${max.toFixed(2)}]`;
}

function explanations(lines: readonly Line[], options: ReportOptions): readonly string[] {
  const ratios = lines.flatMap((line) => Object.entries(line.ratios));
  const refused = new Map(
    ratios.flatMap(([name, ratio]) => (ratio.kind === 'refused' ? [[name, ratio.reason]] : [])),
  );
  return [
    'x: how many times as fast as the reference, median of the rounds [least..most].',
    ...[...refused].map(([name, reason]) => `${name}: ${reason}; run it again.`),
    ...(options.rounds < ROUNDS_MIN
      ? [`~: fewer than ${ROUNDS_MIN} rounds, an indication only.`]
      : []),
    ...options.notes,
  ];
}

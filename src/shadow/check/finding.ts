import type { Table } from '#src/core/table.ts';

/** refuse: a shadow would not work or not be exact. warn: it may. info: what will differ, and is meant to. */
export type Severity = 'refuse' | 'warn' | 'info';

/** What makes a finding go away. `command` is an option or command of ours, `operator` is work outside of SQL. */
export type Fix = {
  readonly runOn: 'source' | 'target' | 'command' | 'operator';
  /** SQL for source and target, as an owner or administrator; an option for command; a sentence for operator. */
  readonly text: string;
};

export type Finding = {
  /** Stable, kebab-case; docs/checks.md has a section for each. */
  readonly id: string;
  readonly severity: Severity;
  /** What it is about: `table "shop"."orders"`, `server`, `role "replicator"`. */
  readonly object: string;
  /** What is the case and what would follow, in one sentence without advice. */
  readonly cause: string;
  readonly fix: Fix | undefined;
};

export type CheckResult = {
  /** Refusals first, then warnings, then information. */
  readonly findings: readonly Finding[];
  readonly isRefused: boolean;
  /** The tables that would be copied, as they were when they were checked. */
  readonly tables: readonly Table[];
};

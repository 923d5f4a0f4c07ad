import type { Fix, Finding, Severity } from './finding.ts';

/**
 * Every check, by its stable id, with what it means when it finds something. docs/checks.md has a section
 * for each, which a test holds to this table.
 */
export const CHECKS = {
  // access
  'same-database': 'refuse',
  'source-version': 'refuse',
  'target-version': 'refuse',
  'target-older': 'refuse',
  'replication-privilege': 'refuse',
  'publication-privilege': 'refuse',
  'table-ownership': 'refuse',
  'select-privilege': 'refuse',
  'sequence-privilege': 'refuse',
  'row-security': 'refuse',
  // source
  'source-standby': 'refuse',
  'source-read-only': 'refuse',
  'wal-level': 'refuse',
  'replication-slots': 'refuse',
  'wal-senders': 'refuse',
  'prepared-transaction': 'refuse',
  'long-transaction': 'warn',
  'activity-hidden': 'info',
  'slot-wal-limit': 'warn',
  'slot-idle-timeout': 'warn',
  'wal-sender-timeout': 'warn',
  'decoding-memory': 'info',
  'source-failover': 'info',
  'large-objects': 'warn',
  'large-objects-unreadable': 'warn',
  // encoding
  'source-encoding': 'refuse',
  'target-encoding': 'refuse',
  'encoding-name': 'refuse',
  'encoding-column': 'refuse',
  'encoding-unverified': 'warn',
  'encoding-converted': 'info',
  // tables
  'no-tables': 'warn',
  'no-key': 'refuse',
  'deferrable-key': 'refuse',
  'generated-key': 'refuse',
  'identity-nothing': 'refuse',
  'identity-full-without-key': 'info',
  inheritance: 'refuse',
  'unlogged-table': 'warn',
  'foreign-partition': 'refuse',
  'foreign-table': 'warn',
  'partition-without-root': 'refuse',
  'access-method': 'refuse',
  'always-rule': 'info',
  'table-rule': 'info',
  'always-trigger': 'info',
  'foreign-key-outside': 'info',
  'oid-column': 'warn',
  'publication-unsafe': 'refuse',
  'publication-fails': 'refuse',
  'publication-unproven': 'warn',
  'source-locks': 'info',
  // schema changes
  'ddl-triggers-privilege': 'refuse',
  'ddl-triggers': 'info',
  // filters
  'filter-unknown': 'refuse',
  'filter-invalid': 'refuse',
  'filter-version': 'refuse',
  'filter-overlap': 'refuse',
  'filter-unsafe': 'refuse',
  'filter-other': 'refuse',
  'excluded-column-needed': 'refuse',
  'table-filtered': 'info',
  'foreign-key-filtered': 'info',
  // target
  'target-standby': 'refuse',
  'target-read-only': 'refuse',
  'target-create-privilege': 'refuse',
  'target-schema-privilege': 'refuse',
  'target-replica-role': 'refuse',
  'target-superuser': 'refuse',
  'target-temporary-privilege': 'refuse',
  'target-origin': 'info',
  'target-origin-free': 'refuse',
  'target-object-exists': 'refuse',
  'target-large-objects': 'refuse',
  'target-sessions': 'warn',
  'target-event-trigger': 'warn',
  'target-disk': 'info',
  'extension-missing': 'refuse',
  'extension-schema': 'refuse',
  'extension-version': 'warn',
  'collation-missing': 'refuse',
  'collation-version': 'warn',
  'locale-differs': 'warn',
  'lz4-missing': 'refuse',
  'role-missing': 'refuse',
  // what is not carried over
  'owner-missing': 'warn',
  'owner-not-granted': 'warn',
  'owners-not-carried': 'info',
  'materialized-view': 'info',
  'event-trigger-not-carried': 'info',
  'publication-not-carried': 'info',
  'subscription-not-carried': 'info',
} as const satisfies Record<string, Severity>;

export type CheckId = keyof typeof CHECKS;

export function finding(id: CheckId, object: string, cause: string, fix?: Fix): Finding {
  return { id, severity: CHECKS[id], object, cause, fix };
}

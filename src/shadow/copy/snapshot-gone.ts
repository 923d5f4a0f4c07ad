/**
 * What SET TRANSACTION SNAPSHOT answers when nobody exports that id any more: 22023 up to 16, 42704 from
 * 17; 55000 when the exporter ends at this moment. 72000: old_snapshot_threshold (up to 16) ended it.
 */
export const SNAPSHOT_GONE_SQLSTATES: ReadonlySet<string> = new Set([
  '22023',
  '42704',
  '55000',
  '72000',
]);

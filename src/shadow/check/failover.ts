import { finding } from './checks.ts';
import { type CheckContext, onSource, byOperator } from './context.ts';
import type { Finding } from './finding.ts';

/** From here on a slot can be synchronised to standbys. */
const FAILOVER_MAJOR = 17;

/**
 * A physical standby is seen by its slot or its walsender; those of logical slots are not standbys. One
 * that is fed from an archive only is not seen.
 */
const STANDBYS_SQL = `
SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'physical') AS slots,
       (SELECT count(*) FROM pg_stat_replication r
         WHERE r.state IN ('streaming', 'catchup')
           AND NOT EXISTS (SELECT FROM pg_replication_slots s
                            WHERE s.slot_type = 'logical' AND s.active_pid = r.pid)) AS senders,
       coalesce(current_setting('synchronized_standby_slots', true), '') AS guard,
       (SELECT to_jsonb(s) ->> 'failover' FROM pg_replication_slots s WHERE s.slot_name = $1) AS failover`;

/** Whether a shadow would outlive a failover of the source to a standby that there is. */
export async function checkFailover(context: CheckContext): Promise<readonly Finding[]> {
  const { source, sourceServer, resumedShadowId } = context;
  const [row] = await source.query(STANDBYS_SQL, [`understudy_${resumedShadowId ?? ''}`]);
  const guard = row?.['guard'] ?? '';
  if (row?.['slots'] === '0' && row['senders'] === '0' && guard === '') return [];
  if (sourceServer.major < FAILOVER_MAJOR) {
    return [
      finding(
        'source-failover',
        'server',
        `a failover to a standby would lose the slot, and the shadow would have to be made again: standbys have slots from ${FAILOVER_MAJOR} on`,
      ),
    ];
  }
  if (row?.['failover'] === 'false') {
    return [
      finding(
        'source-failover',
        'server',
        'the slot of this shadow is not synchronised to standbys: a failover would lose it, and the shadow would have to be made again',
      ),
    ];
  }
  if (guard === '') {
    return [
      finding(
        'source-failover',
        'setting synchronized_standby_slots',
        'it is empty, so the shadow may get ahead of a standby, and would have to be made again after a failover to it',
        onSource(
          `ALTER SYSTEM SET synchronized_standby_slots = '<physical slot of the standby>'; SELECT pg_reload_conf()`,
        ),
      ),
    ];
  }
  return [
    finding(
      'source-failover',
      'setting synchronized_standby_slots',
      `it is ${guard}: a shadow would outlive a failover to that standby, if that has sync_replication_slots, hot_standby_feedback and a dbname in primary_conninfo`,
      byOperator('On the standby: SHOW sync_replication_slots; SHOW hot_standby_feedback.'),
    ),
  ];
}

import { quoteIdentifier } from '#src/core/table.ts';
import { tryCapture } from '#src/shadow/ddl/capture.ts';

import { finding } from './checks.ts';
import { type CheckContext, field, onSource } from './context.ts';
import type { Finding } from './finding.ts';

/** Whether the event triggers that are asked for can be made, and which of ours are there. */
export async function checkDdlTriggers(context: CheckContext): Promise<readonly Finding[]> {
  const { source, sourceServer, ddlTriggers } = context;
  const { isInRecovery, isReadOnly, database } = sourceServer;
  const object = `database ${quoteIdentifier(database.name)}`;
  const rows = await source.query(
    `SELECT pg_catalog.quote_ident(evtname) AS name FROM pg_catalog.pg_event_trigger
      WHERE evtname ~ '^understudy_' ORDER BY 1`,
  );
  const findings: Finding[] = [];
  if (rows.length > 0) {
    const names = rows.map((row) => field(row, 'name')).join(', ');
    findings.push(
      finding(
        'ddl-triggers',
        object,
        `our event triggers ${names} write its schema changes into its WAL`,
      ),
    );
  }
  if (ddlTriggers !== true || isInRecovery || isReadOnly) return findings;
  const sqlstate = await tryCapture(source);
  if (sqlstate === undefined) {
    findings.push(
      finding(
        'ddl-triggers',
        object,
        'three event triggers and a function in schema understudy are made on it, until `understudy drop`',
      ),
    );
  } else {
    findings.push(refusal(context, object, sqlstate));
  }
  return findings;
}

/** undefined_object: the language of the function. */
const NO_LANGUAGE = '42704';

function refusal({ sourceServer }: CheckContext, object: string, sqlstate: string): Finding {
  const role = quoteIdentifier(sourceServer.role.name);
  if (sqlstate === NO_LANGUAGE) {
    const cause = 'event triggers were asked for, and it does not have the language plpgsql';
    return finding('ddl-triggers-privilege', object, cause, onSource('CREATE EXTENSION plpgsql'));
  }
  return finding(
    'ddl-triggers-privilege',
    `role ${role}`,
    `event triggers were asked for, and it may not make them (SQLSTATE ${sqlstate})`,
    onSource(`ALTER ROLE ${role} SUPERUSER`),
  );
}

import { type Ownership, ownershipSteps, type RolesThere } from '#src/core/schema-owners.ts';
import type { SchemaScript, Skipped } from '#src/core/schema-script.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';

import { textOf } from './rows.ts';

/** pg_has_role(…, 'SET') exists from here on: a grant of a role may come without it, or without INHERIT. */
const SET_OPTION_VERSION = 160_000;

/** Which of these roles the target has, and as which of them whoever is connected may act. */
export async function readRolesThere(
  target: Session,
  wanted: readonly string[],
): Promise<RolesThere> {
  const maySet = target.serverVersion >= SET_OPTION_VERSION ? `AND pg_has_role(r.oid, 'SET')` : '';
  const rows = await target.query(
    `SELECT r.rolname, me.rolname AS me, me.rolsuper,
            me.rolsuper OR (pg_has_role(r.oid, 'USAGE') ${maySet}) AS is_usable
       FROM pg_roles me LEFT JOIN pg_roles r ON r.rolname = ANY ($1::text[])
      WHERE me.rolname = current_user`,
    [wanted],
  );
  const found = rows.filter((row) => row['rolname'] !== null);
  const namesOf = (some: typeof rows): ReadonlySet<string> =>
    new Set(some.map((row) => textOf(row, 'rolname')));
  return {
    present: namesOf(found),
    usable: namesOf(found.filter((row) => row['is_usable'] === 't')),
    copying: rows[0]?.['me'] ?? '',
    isSuperuser: rows[0]?.['rolsuper'] === 't',
  };
}

/** The script with steps for the owners and grants that the target can take, and what it cannot among `skipped`. */
export async function withOwnership(target: Session, script: SchemaScript): Promise<SchemaScript> {
  const { ownership } = script;
  if (ownership.length === 0) return script;
  const carried = ownershipSteps(ownership, await readRolesThere(target, rolesOf(ownership)));
  return {
    ...script,
    steps: [...script.steps, ...carried.steps],
    skipped: [...script.skipped, ...summary(carried.skipped)],
  };
}

function rolesOf(ownership: readonly Ownership[]): readonly string[] {
  return [...new Set(ownership.flatMap(({ names, actsAs }) => [...names, ...actsAs]))];
}

const NAMED_MAX = 3;

/** One line for each reason: a database may have thousands of objects of one role. */
function summary(skipped: readonly Skipped[]): readonly Skipped[] {
  return [...Map.groupBy(skipped, ({ reason }) => reason)].map(([reason, items]) => {
    const named = items.slice(0, NAMED_MAX).map(({ kind, object }) => `${kind} ${object}`);
    const more = items.length > NAMED_MAX ? ` and ${items.length - NAMED_MAX} more` : '';
    return { kind: 'owners and grants:', object: `${named.join(', ')}${more}`, reason };
  });
}

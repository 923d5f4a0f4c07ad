import { type Entry, unquote } from './schema-entry.ts';
import type { Skipped, Step } from './schema-script.ts';

/**
 * Owners, grants and default privileges of a dump. They are carried at the very end: whoever copies may
 * not be allowed to build on what belongs to somebody else, and indexes and refreshes need no grant.
 *
 *     schemas' owners ─► schemas' grants ─► owners, tables before sequences ─► grants ─► default privileges
 *
 * The schemas come first because a table's new owner must be allowed to create in its schema.
 */

/** keep: as far as the target has the roles. skip: everything belongs to whoever copies. */
export const OWNERS_POLICIES = ['keep', 'skip'] as const;
export type OwnersPolicy = (typeof OWNERS_POLICIES)[number];

/** One statement that names roles. */
export type Ownership = {
  readonly kind: string;
  readonly object: string;
  readonly statement: string;
  readonly rank: number;
  /** Roles (unquoted) that must exist, and those as which whoever runs it must be able to act. */
  readonly names: readonly string[];
  readonly actsAs: readonly string[];
  readonly isRevokedFromRole: boolean;
};

const PART = String.raw`(?:"(?:[^"]|"")+"|[^\s".(),;]+)`;
const OWNER = new RegExp(`^ALTER .* OWNER TO (${PART})$`, 's');
const GRANTEE = new RegExp(` (TO|FROM) (${PART})(?: WITH GRANT OPTION)?$`, 's');
const DEFAULTS_OF = new RegExp(`^ALTER DEFAULT PRIVILEGES FOR ROLE (${PART}) `);
const GRANTOR = new RegExp(`^SET SESSION AUTHORIZATION (${PART})$`);
const GRANTOR_END = 'RESET SESSION AUTHORIZATION';

/** Take what names roles out of a dump's entries. */
export function takeOwnership(entries: readonly Entry[]): {
  readonly entries: readonly Entry[];
  readonly ownership: readonly Ownership[];
} {
  const ownership: Ownership[] = [];
  const rest = entries.flatMap((entry): readonly Entry[] => {
    if (entry.kind === 'ACL' || entry.kind === 'DEFAULT ACL') {
      ownership.push(...grantsOf(entry));
      return [];
    }
    ownership.push(...entry.statements.filter(isOwner).map((text) => ownerOf(entry, text)));
    const statements = entry.statements.filter((statement) => !isOwner(statement));
    return statements.length === 0 ? [] : [{ ...entry, statements }];
  });
  return { entries: rest, ownership: ownership.toSorted((a, b) => a.rank - b.rank) };
}

function isOwner(statement: string): boolean {
  return OWNER.test(statement);
}

function ownerOf({ kind, object }: Entry, statement: string): Ownership {
  const role = unquote(OWNER.exec(statement)?.[1] ?? '');
  // A sequence follows the table that owns it, and can then only be given to the same.
  const rank = kind === 'SCHEMA' ? 0 : kind === 'SEQUENCE' ? 3 : 2;
  return { kind, object, statement, rank, names: [], actsAs: [role], isRevokedFromRole: false };
}

function grantsOf({ kind, object, statements }: Entry): readonly Ownership[] {
  const isOfSchema = object.startsWith('SCHEMA ');
  const rank = kind === 'DEFAULT ACL' ? 5 : isOfSchema ? 1 : 4;
  let grantor: string | undefined;
  return statements.flatMap((statement): readonly Ownership[] => {
    const begins = GRANTOR.exec(statement)?.[1];
    if (begins !== undefined || statement === GRANTOR_END) {
      grantor = begins;
      return [];
    }
    const [, direction, grantee = ''] = GRANTEE.exec(statement) ?? [];
    const defaultsOf = DEFAULTS_OF.exec(statement)?.[1];
    const actsAs = [grantor, defaultsOf].filter((role) => role !== undefined).map(unquote);
    const isPublic = grantee === 'PUBLIC' || grantee === '';
    return [
      {
        kind,
        object,
        statement:
          grantor === undefined
            ? statement
            : `SET LOCAL ROLE ${grantor};\n${statement};\nRESET ROLE`,
        rank,
        names: isPublic ? [] : [unquote(grantee)],
        actsAs,
        isRevokedFromRole: direction === 'FROM' && !isPublic && kind === 'ACL',
      },
    ];
  });
}

/** What a server knows of the roles that are wanted there. */
export type RolesThere = {
  readonly present: ReadonlySet<string>;
  /** Those as which the role that copies may act. */
  readonly usable: ReadonlySet<string>;
  readonly copying: string;
  readonly isSuperuser: boolean;
};

/** The steps that carry `ownership` over as far as roles allow, and what is left out. */
export function ownershipSteps(
  ownership: readonly Ownership[],
  roles: RolesThere,
): { readonly steps: readonly Step[]; readonly skipped: readonly Skipped[] } {
  const skipped: Skipped[] = [];
  const steps = ownership.flatMap((item): readonly Step[] => {
    const { kind, object, statement } = item;
    const reason = whyNot(item, roles);
    if (reason === undefined)
      return [{ stage: 'owner', kind, object, statement, table: undefined }];
    skipped.push({ kind: kind.endsWith('ACL') ? 'grant on' : `owner of ${kind}`, object, reason });
    return [];
  });
  return { steps, skipped };
}

function whyNot(item: Ownership, roles: RolesThere): string | undefined {
  const missing = [...item.names, ...item.actsAs].find((role) => !roles.present.has(role));
  if (missing !== undefined) return `role ${missing} does not exist on the target`;
  const foreign = item.actsAs.find((role) => !roles.usable.has(role));
  if (foreign !== undefined) return `role ${roles.copying} may not act as ${foreign}`;
  // It acts by the owner's rights, and has to write.
  if (item.isRevokedFromRole && !roles.isSuperuser) {
    return `role ${roles.copying} needs the rights that its owner has given up`;
  }
  return undefined;
}

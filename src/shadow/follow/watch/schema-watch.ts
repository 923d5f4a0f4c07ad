import type { Endpoint } from '#src/core/endpoint.ts';
import type { Lsn } from '#src/core/lsn.ts';
import type { Report } from '#src/core/progress.ts';
import { compareShapes, worstVerdict } from '#src/core/schema-change.ts';
import type { RelationShape } from '#src/core/schema-shape.ts';
import type { Selection } from '#src/core/selection.ts';
import { quoteTable } from '#src/core/table.ts';
import { CatalogChange } from '#src/db/postgres/catalog/catalog-change.ts';
import { readRelations, type SelectedRelations } from '#src/db/postgres/catalog/catalog.ts';
import { readShapes } from '#src/db/postgres/catalog/shapes.ts';
import type { Session } from '#src/db/postgres/connection/session.ts';
import { OperatorError } from '#src/lib/errors.ts';
import { readCapture } from '#src/shadow/ddl/capture.ts';
import { type Look, sendLook } from '#src/shadow/ddl/look-message.ts';
import {
  readLatestVersions,
  readPosition,
  recordFirstVersions,
} from '#src/shadow/ddl/version-ledger.ts';
import { isUnwritable } from '#src/shadow/follow/apply/ddl-messages.ts';
import { forgetRelation } from '#src/shadow/follow/table-states.ts';
import { type RelationRecord, readRelationRecords } from '#src/shadow/ledger.ts';
import { type Publication, unpublishTables } from '#src/shadow/publication.ts';
import { findExistingRelations } from '#src/shadow/schema/restore.ts';

import { Arrivals } from './arrivals.ts';
import { FileWatch } from './file-watch.ts';

/**
 * Looks at the source's catalog every few seconds for what the stream does not show: it asks whether
 * anything was written there, and compares shapes only then.
 *
 * What has changed is written into the stream, in the form in which event triggers say it: so it comes to
 * the apply loop behind the change, in order with the rows, and is judged there by the same rules. Where
 * the triggers have said it before, nothing is left to do. Without them a table stops a few seconds after
 * the change, or at its first row of the new shape, whichever comes first; either way it is exactly the
 * source as of its stop.
 *
 * Tables that appear are not of the stream at all: see `Arrivals`.
 */
export type SchemaWatchDeps = {
  readonly source: Session;
  readonly target: Session;
  readonly sourceEndpoint: Endpoint;
  readonly selection: Selection;
  readonly shadowId: string;
  readonly publication: Publication;
  /** Whether our event triggers were installed. */
  readonly hasTriggers: boolean;
  readonly appliedLsn: () => Lsn;
  readonly report: Report;
  readonly signal: AbortSignal;
};

export class SchemaWatch {
  readonly #deps: SchemaWatchDeps;
  readonly #catalog = new CatalogChange();
  readonly #arrivals: Arrivals;
  readonly #files: FileWatch;
  readonly #said = new Set<string>();
  /** As of the last look; undefined where a table is gone. */
  #seen: Map<number, RelationShape | undefined> | undefined;

  constructor(deps: SchemaWatchDeps) {
    this.#deps = deps;
    this.#arrivals = new Arrivals(deps, (message) => this.#say(message));
    this.#files = new FileWatch(deps);
  }

  async look(): Promise<void> {
    const { source, target, shadowId } = this.#deps;
    const areTriggersOn = await this.#checkTriggers();
    this.#seen ??= await this.#readSeen();
    const records = await readRelationRecords(target, shadowId);
    const known = new Set([...this.#seen.keys(), ...records.map(({ sourceOid }) => sourceOid)]);
    if ((await this.#catalog.check(source, [...known])) || this.#arrivals.isUnfinished) {
      const at = await readPosition(source);
      const relations = await this.#readRelations();
      await this.#compare(relations, [...known], at);
      const arrived = await this.#arrivals.take(records, relations);
      await this.#recordFirst([...arrived, ...relations.partitioned.map(({ oid }) => oid)]);
    }
    await this.#files.judge(areTriggersOn);
    await this.#forgetGone(records);
  }

  /** A table that is gone from both sides is of no shadow any more. */
  async #forgetGone(records: readonly RelationRecord[]): Promise<void> {
    const { target, shadowId } = this.#deps;
    const gone = records.filter(
      ({ state, sourceOid }) => state === 'stopped' && this.#seen?.get(sourceOid) === undefined,
    );
    if (gone.length === 0) return;
    const left = new Set((await findExistingRelations(target, gone)).map(quoteTable));
    for (const record of gone.filter((one) => !left.has(quoteTable(one)))) {
      if (await forgetRelation(target, shadowId, record.sourceOid)) {
        this.#say(
          `table ${quoteTable(record)} is gone from both sides, and not of the shadow any more`,
        );
      }
    }
  }

  async #readSeen(): Promise<Map<number, RelationShape | undefined>> {
    const latest = await readLatestVersions(this.#deps.target, this.#deps.shadowId);
    return new Map([...latest].map(([oid, { shape }]) => [oid, shape]));
  }

  /** Everything that the selection means; nothing where it means nothing any more. */
  async #readRelations(): Promise<SelectedRelations> {
    try {
      return await readRelations(this.#deps.source, this.#deps.selection);
    } catch (error) {
      if (!(error instanceof OperatorError) || error.code !== 'SELECTION_EMPTY') throw error;
      return { tables: [], partitioned: [], unsupported: [] };
    }
  }

  async #compare(relations: SelectedRelations, known: readonly number[], at: Lsn): Promise<void> {
    const { source, shadowId } = this.#deps;
    const seen = this.#seen ?? new Map<number, RelationShape | undefined>();
    const shapes = await readShapes(source, known);
    const names = new Set([...relations.tables, ...relations.partitioned].map(quoteTable));
    const looks: Look[] = [];
    for (const [oid, before] of seen) {
      if (before === undefined) continue;
      const after = shapes.get(oid);
      if (after === undefined) {
        const isReplaced = names.has(quoteTable(before));
        looks.push({ kind: 'gone', oid, identity: quoteTable(before), isReplaced });
        continue;
      }
      const isOtherFile = before.fileNode !== after.fileNode;
      const isOther = worstVerdict(compareShapes(before, after)) !== 'goes on';
      if (isOtherFile && !isOther) this.#files.changed(after, at);
      if (!isSame(before, after))
        looks.push({ kind: 'changed', shape: after, isRewritten: isOtherFile });
    }
    await sendLook(source, shadowId, looks);
    // Only now: the table stops at the look, which the stream has before anything is missing from it.
    await this.#unpublish([...shapes.values()].filter(isUnwritable));
    for (const oid of known) if (seen.has(oid)) seen.set(oid, shapes.get(oid));
  }

  /** Production's UPDATE and DELETE fail on a published table without a replica identity (trap 7). */
  async #unpublish(shapes: readonly RelationShape[]): Promise<void> {
    if (shapes.length === 0) return;
    const { source, publication } = this.#deps;
    const taken = await unpublishTables(
      source,
      publication,
      shapes.map(({ oid }) => oid),
    );
    for (const table of taken) {
      this.#say(
        `table ${quoteTable(table)} has no replica identity any more: it was taken out of the publication, ` +
          'because UPDATE and DELETE of it failed on the source',
      );
    }
  }

  async #recordFirst(oids: readonly number[]): Promise<void> {
    const { shadowId } = this.#deps;
    const unseen = oids.filter((oid) => this.#seen?.has(oid) !== true);
    if (unseen.length === 0) return;
    await recordFirstVersions(this.#deps, shadowId, unseen);
    const latest = await readLatestVersions(this.#deps.target, shadowId);
    for (const oid of unseen) this.#seen?.set(oid, latest.get(oid)?.shape);
  }

  async #checkTriggers(): Promise<boolean> {
    const { source, shadowId, hasTriggers } = this.#deps;
    if (!hasTriggers) return false;
    if ((await readCapture(source, shadowId)) === 'on') return true;
    this.#say(
      'an event trigger of ours on the source was removed or disabled: changes of the schema are seen a few seconds late',
    );
    return false;
  }

  #say(message: string): void {
    if (this.#said.has(message)) return;
    this.#said.add(message);
    this.#deps.report({ type: 'notice', level: 'warn', message });
  }
}

/** Whether two shapes differ in nothing but the file, and the partitions, which have shapes of their own. */
function isSame(before: RelationShape, after: RelationShape): boolean {
  return (
    JSON.stringify({ ...before, fileNode: 0, partitions: [] }) ===
    JSON.stringify({ ...after, fileNode: 0, partitions: [] })
  );
}

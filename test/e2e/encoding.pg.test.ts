import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test, vi } from 'vitest';

import type { Session } from '#src/db/postgres/connection/session.ts';
import { parseLines, runCommand, startCommand, urlOf } from '#test/command.ts';
import { isFull } from '#test/full.ts';
import { createTestDatabase } from '#test/postgres.ts';

// Each command is a process of its own, which takes its time on a busy machine.
vi.setConfig({ testTimeout: 240_000 });

/** Characters of each encoding: in keys, values and names. */
const ENCODINGS = [
  ['LATIN1', 14, 'äÿ', false],
  ['EUC_KR', 17, '한글', false],
  ['WIN1252', 18, '€œ', true],
  ['KOI8R', 15, 'дБ', true],
] as const;

const schemaOf = (word: string): string => `
  CREATE SCHEMA "s${word}";
  CREATE TYPE "s${word}"."mood ${word}" AS ENUM ('${word}', 'plain');
  CREATE TABLE "s${word}"."t${word}" ("k${word}" varchar(20) PRIMARY KEY, n int, short char(8), tags text[], mood "s${word}"."mood ${word}", doc json, long text, obj jsonb);
  CREATE TABLE "s${word}".binary_safe (k text PRIMARY KEY, v text, b bytea);
  ALTER TABLE "s${word}"."t${word}" ALTER long SET STORAGE EXTERNAL;`;

const rowsOf = (word: string, from: number, to: number): string => `
  INSERT INTO "s${word}"."t${word}" SELECT '${word}' || i, i, '${word}', ARRAY['${word}', NULL, i::text], '${word}', '{"a": "${word}", "a": 1}', repeat('${word}zqrow', 500), jsonb_build_object('${word}', i, 'zz', i) FROM generate_series(${from}, ${to}) i;
  INSERT INTO "s${word}".binary_safe SELECT '${word}' || i, chr(65 + i % 26) || '${word}', convert_to('${word}', 'UTF8') FROM generate_series(${from}, ${to}) i;`;

/** Every row as its reader gets it. */
async function fingerprint(session: Session, word: string): Promise<unknown> {
  return [
    await session.query(
      `SELECT "k${word}", n, short, tags, mood, doc, long, obj -> '${word}' AS a, obj -> 'zz' AS z
         FROM "s${word}"."t${word}" ORDER BY n, "k${word}" COLLATE "C"`,
    ),
    await session.query(`SELECT * FROM "s${word}".binary_safe ORDER BY convert_to(k, 'UTF8')`),
  ];
}

test.each(ENCODINGS.filter(([, , , isOnlyFull]) => isFull || !isOnlyFull))(
  'a source in %s (%i) is copied, followed and verified as UTF8',
  async (encoding, version, word) => {
    await using source = await createTestDatabase(version, undefined, { encoding });
    await using target = await createTestDatabase(18);
    const { session } = source;
    await session.query(schemaOf(word) + rowsOf(word, 1, 300));
    const spool = mkdtempSync(join(tmpdir(), 'understudy-test-'));
    try {
      const urls = ['--source', urlOf(source.endpoint), '--target', urlOf(target.endpoint)];
      const options = ['--follow', '--verify', '--spool', spool, '--json'];
      await using clone = startCommand(['clone', ...urls, ...options]);
      await clone.waitFor('"type":"verified"');
      const table = `"s${word}"."t${word}"`;
      await session.query(rowsOf(word, 301, 600));
      await session.query(`UPDATE ${table} SET short = 'z' || short WHERE n % 2 = 0`);
      await session.query(
        `UPDATE ${table} SET "k${word}" = "k${word}" || '${word}' WHERE n % 7 = 0`,
      );
      await session.query(`DELETE FROM ${table} WHERE "k${word}" = '${word}5'`);
      await session.query(`DELETE FROM "s${word}".binary_safe WHERE k LIKE '${word}1%'`);
      await session.query(`TRUNCATE "s${word}".binary_safe; ${rowsOf(word, 601, 700)}`);
      const verified = await runCommand(['verify', ...urls, '--full', '--json']);
      expect([verified.code, verified.stderr]).toEqual([0, '']);
      expect(parseLines(verified.stdout).find(({ type }) => type === 'verified')).toMatchObject({
        differences: 0,
        unverified: [`s${word}.t${word}.obj`],
      });
      expect(await fingerprint(target.session, word)).toEqual(await fingerprint(session, word));
      // What differs is still found.
      await target.session.query(`UPDATE ${table} SET long = long || '.' WHERE n = 9`);
      const tampered = await runCommand(['verify', ...urls, '--full', '--json']);
      expect(tampered.code).toBe(3);
      clone.kill('SIGINT');
      await clone.ended;
      expect((await runCommand(['drop', ...urls])).code).toBe(0);
    } finally {
      rmSync(spool, { recursive: true });
    }
  },
);

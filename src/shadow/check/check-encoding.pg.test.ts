import { expect, test } from 'vitest';

import { LOSSLESS_ENCODINGS } from '#src/core/server-encoding.ts';
import { check, named } from '#test/check.ts';
import { createTestDatabase } from '#test/postgres.ts';

/** How many characters of an encoding come back from UTF8 as the bytes that they were, and how many do not. */
const PROBE = `
CREATE FUNCTION pg_temp.probe(encoding text, OUT same int, OUT other int) LANGUAGE plpgsql AS $$
DECLARE bytes bytea;
BEGIN
  same := 0; other := 0;
  FOR bytes IN
    SELECT decode(lpad(to_hex(i), 2, '0'), 'hex') FROM generate_series(1, 255) i
     UNION ALL
    SELECT decode(to_hex(i) || to_hex(j), 'hex')
      FROM generate_series(128, 254) i, generate_series(161, 254) j WHERE encoding LIKE 'EUC%'
     UNION ALL
    SELECT decode('8f' || to_hex(i) || to_hex(j), 'hex')
      FROM generate_series(161, 254) i, generate_series(161, 254) j WHERE encoding LIKE 'EUC_J%'
  LOOP
    BEGIN
      IF convert_to(convert_from(bytes, encoding), encoding) = bytes THEN same := same + 1;
      ELSE other := other + 1; END IF;
    EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN NULL; END;
  END LOOP;
END $$`;

test.each([14, 18] as const)(
  'on %i every character of an encoding that we accept comes back from UTF8 as it was',
  async (version) => {
    await using db = await createTestDatabase(version, PROBE);
    const probe = async (encoding: string) =>
      (await db.session.query('SELECT * FROM pg_temp.probe($1)', [encoding]))[0];
    for (const encoding of LOSSLESS_ENCODINGS) {
      const found = await probe(encoding);
      expect([encoding, found?.['other']]).toEqual([encoding, '0']);
      expect(Number(found?.['same'])).toBeGreaterThan(200);
    }
    // The reason why this one is refused.
    expect(await probe('EUC_JP')).toEqual({ same: '13301', other: '23' });
  },
);

test('an encoding that loses something is refused, also between two databases that share it', async () => {
  await using utf8 = await createTestDatabase(17);
  for (const encoding of ['SQL_ASCII', 'EUC_JP']) {
    await using source = await createTestDatabase(17, undefined, { encoding });
    await using target = await createTestDatabase(17, undefined, { encoding });
    const refused = `source-encoding database "${source.name}"`;
    expect(named(await check({ source: source.endpoint, target: utf8.endpoint }))).toEqual([
      refused,
    ]);
    expect(named(await check({ source: source.endpoint, target: target.endpoint }))).toEqual([
      refused,
      `target-encoding database "${target.name}"`,
    ]);
  }
});

test('from an encoding that converts, what counts in bytes is refused and the rest is said', async () => {
  await using source = await createTestDatabase(
    16,
    `CREATE TYPE public.pair AS (a int, b jsonb[]);
     CREATE TYPE public.mood AS ENUM ('ü');
     CREATE TABLE public.good (id int PRIMARY KEY, t text, m public.mood, j json, a text[]);
     CREATE TABLE public.bytes (id int PRIMARY KEY, c "char", n name);
     CREATE TABLE public.ordered (id int PRIMARY KEY, p public.pair, s tsvector, t text);
     CREATE TABLE public.${'ö'.repeat(40)} (id int PRIMARY KEY)`,
    { encoding: 'LATIN1' },
  );
  await using target = await createTestDatabase(16);
  const result = await check({ source: source.endpoint, target: target.endpoint });
  expect(named(result)).toEqual([
    'encoding-column table "public"."bytes"',
    `encoding-name constraint "${'ö'.repeat(40)}_pkey"`,
    `encoding-name relation "${'ö'.repeat(40)}"`,
    `encoding-name relation "${'ö'.repeat(40)}_pkey"`,
    ...['', '_'].map((array) => `encoding-name type "${array}${'ö'.repeat(40)}"`).toSorted(),
  ]);
  const warned = result.findings.filter(({ id }) => id === 'encoding-unverified');
  expect(warned.map(({ object, cause }) => [object, cause.slice(0, 8)])).toEqual([
    ['table "public"."ordered"', '"p", "s"'],
  ]);
  expect(named(result, 'info')).toContain(`encoding-converted database "${source.name}"`);
});

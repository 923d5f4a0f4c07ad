import { expect, test } from 'vitest';

import { describeVersion, fixedVersion } from './late-publication.ts';

test.each([
  [140017, '14.18'],
  [140018, undefined],
  [140023, undefined],
  [150012, '15.13'],
  [150013, undefined],
  [160000, '16.9'],
  [160009, undefined],
  [170004, '17.5'],
  [170005, undefined],
  [180000, undefined],
  [190001, undefined],
  [130021, '18.0'],
])(
  'a server of version %i sends all of a table that is published late from %s on',
  (version, fixed) => {
    expect(fixedVersion(version)).toBe(fixed);
  },
);

test('a version is named as people do', () => {
  expect([140017, 180000].map(describeVersion)).toEqual(['14.17', '18.0']);
});

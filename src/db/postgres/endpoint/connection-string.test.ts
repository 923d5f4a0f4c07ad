import * as fc from 'fast-check';
import { expect, test } from 'vitest';

import { parseConnectionString } from './connection-string.ts';

test.each([
  ['postgres://', {}],
  ['postgresql://localhost', { host: 'localhost' }],
  ['postgres://u@h:1/d', { user: 'u', host: 'h', port: '1', dbname: 'd' }],
  ['postgres://u:p%40%3A%2Fss@h/d', { user: 'u', password: 'p@:/ss', host: 'h', dbname: 'd' }],
  ['postgres://u:@h', { user: 'u', host: 'h' }],
  ['postgres://[::1]:5433/d', { host: '::1', port: '5433', dbname: 'd' }],
  ['postgres://%2Fvar%2Frun/d', { host: '/var/run', dbname: 'd' }],
  ['postgres:///d?host=/tmp&port=7', { dbname: 'd', host: '/tmp', port: '7' }],
  [
    'postgres://h/d?sslmode=require&connect_timeout=5',
    { host: 'h', dbname: 'd', sslmode: 'require', connect_timeout: '5' },
  ],
  ['postgres://h?ssl=true', { host: 'h', sslmode: 'require' }],
  [
    'postgres://h/my%20db?application_name=x',
    { host: 'h', dbname: 'my db', application_name: 'x' },
  ],
  ['host=h port = 7', { host: 'h', port: '7' }],
  [String.raw`user=u password='a \'b\\ c' dbname=''`, { user: 'u', password: String.raw`a 'b\ c` }],
  [String.raw`password=a\ b host=h`, { password: 'a b', host: 'h' }],
])('%s is understood as by libpq', (text, settings) => {
  expect(parseConnectionString(text)).toEqual(settings);
});

test.each([
  ['postgres://u:secret@h/d?sslmod=require', 'connection parameter sslmod is not supported'],
  ['postgres://u:secret@h/d?options=-c%20x', 'connection parameter options is not supported'],
  ['postgres://u:se@cret@h/d', 'malformed'],
  ['postgres://u:secret@h:1:2/d', 'malformed'],
  ['postgres://u:sec%ret@h/d', '%25'],
  ['postgres://u:secret@h/d?sslmode', 'has no value'],
  ['postgres://u:secret%00@h/d', 'zero byte'],
  ['mysql://u:secret@h/d', 'neither'],
  ["host=h password='secret", 'neither'],
  ['host=h hots=secret', 'hots'],
  ['secret', 'neither'],
])('%s is refused without being repeated', (text, problem) => {
  expect(() => parseConnectionString(text)).toThrow(
    expect.objectContaining({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(problem),
    }),
  );
  expect(() => parseConnectionString(text)).toThrow(/^(?!.*(secret|cret@)).*$/s);
});

function quote(text: string): string {
  return `'${text.replaceAll(/['\\]/g, String.raw`\$&`)}'`;
}

test('what is escaped comes back, whatever it is', () => {
  const unit = fc.constantFrom(...Array.from(`a1 @:/?#&=%'"[]ä€😀\\\n`));
  const anyText = fc.string({ unit, minLength: 1 });
  fc.assert(
    fc.property(anyText, anyText, anyText, (user, password, dbname) => {
      const [u, p, d] = [user, password, dbname].map(encodeURIComponent);
      expect(parseConnectionString(`postgres://${u}:${p}@h/${d}`)).toEqual({
        user,
        password,
        host: 'h',
        dbname,
      });
      expect(parseConnectionString(`user=${quote(user)} password=${quote(password)}`)).toEqual({
        user,
        password,
      });
    }),
  );
});

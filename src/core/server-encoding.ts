/**
 * Encodings of a source database that become UTF8 on the way without a loss: every character that a
 * server converts comes back as the same bytes (a test asks real servers for each). Bytes to which the
 * encoding gives no character are refused by the server when they are read (22P05), never replaced.
 *
 * Not among them: SQL_ASCII, which says nothing of its bytes; EUC_JP, EUC_TW and JOHAB, in which
 * a character may be written in two ways, so that two keys could become one; MULE_INTERNAL, to which no
 * client can speak UTF8.
 */
export const LOSSLESS_ENCODINGS: readonly string[] = [
  'LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10',
  'ISO_8859_5 ISO_8859_6 ISO_8859_7 ISO_8859_8 KOI8R KOI8U WIN866 WIN874',
  'WIN1250 WIN1251 WIN1252 WIN1253 WIN1254 WIN1255 WIN1256 WIN1257 WIN1258',
  'EUC_CN EUC_KR EUC_JIS_2004',
].flatMap((line) => line.split(' '));

/** Whether text of this encoding (by its name in pg_encoding_to_char) is in UTF8 what it was. */
export function isLosslessInUtf8(encoding: string): boolean {
  return encoding === 'UTF8' || LOSSLESS_ENCODINGS.includes(encoding);
}

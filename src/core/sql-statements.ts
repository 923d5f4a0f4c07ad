/** A piece of a script at its top level: a whole statement without its semicolon, or a `--` comment. */
export type ScriptPiece =
  | { readonly kind: 'statement'; readonly text: string }
  | { readonly kind: 'comment'; readonly text: string };

const SPACE = /\s+/y;
const WORD = /[A-Za-z_\u0080-\uffff][A-Za-z0-9_$\u0080-\uffff]*/y;
const DOLLAR_TAG = /\$(?:[A-Za-z_\u0080-\uffff][A-Za-z0-9_\u0080-\uffff]*)?\$/y;
/** CREATE [OR REPLACE] {FUNCTION | PROCEDURE} is all that can have a body of statements. */
const ROUTINE = /^create (?:or replace )?(?:function|procedure) /;
/** No more words than these are needed to recognise one. */
const LEADING_WORDS_MAX = 4;

/**
 * Split SQL that was written for psql, such as pg_dump's, at the semicolons that end a statement: not
 * those in quotes, comments, parentheses (CREATE RULE) or a BEGIN ATOMIC body. The rules are those of
 * psql's lexer (psqlscan.l), under standard_conforming_strings = on.
 */
export function* splitScript(script: string): Generator<ScriptPiece> {
  let start = 0;
  let at = 0;
  let parentheses = 0;
  let begins = 0;
  let leading = '';
  let words = 0;
  while (at < script.length) {
    const isBetween = at === start;
    const char = script.charAt(at);
    if (char === ';' && parentheses === 0 && begins === 0) {
      if (!isBetween) yield { kind: 'statement', text: script.slice(start, at).trimEnd() };
      at += 1;
      start = at;
      leading = '';
      words = 0;
      continue;
    }
    const end = skipToken(script, at);
    if (char === '(') parentheses += 1;
    else if (char === ')') parentheses = Math.max(0, parentheses - 1);
    else if (isWordStart(char) && !isQuote(script.charAt(end - 1))) {
      const word = script.slice(at, end).toLowerCase();
      if (words < LEADING_WORDS_MAX) leading += `${word} `;
      words += 1;
      if (parentheses === 0 && ROUTINE.test(leading)) begins = nest(begins, word);
    }
    if (isBetween && script.startsWith('--', at)) {
      yield { kind: 'comment', text: script.slice(at, end) };
    }
    at = end;
    if (isBetween && isSkippable(script, start)) start = at;
  }
  const rest = script.slice(start).trimEnd();
  if (rest !== '') yield { kind: 'statement', text: rest };
}

/** How deep the statements of a body are nested; CASE has an END, too. */
function nest(begins: number, word: string): number {
  if (word === 'begin') return begins + 1;
  if (word === 'case' && begins > 0) return begins + 1;
  if (word === 'end' && begins > 0) return begins - 1;
  return begins;
}

/** Where the token at `at` ends; unterminated ones end with the script. */
function skipToken(script: string, at: number): number {
  const char = script.charAt(at);
  if (char === "'") return skipQuoted(script, at + 1, "'");
  if (char === '"') return skipQuoted(script, at + 1, '"');
  if (char === '$') return skipDollarQuoted(script, at);
  if (script.startsWith('--', at)) return endOf(script, script.indexOf('\n', at));
  if (script.startsWith('/*', at)) return skipBlockComment(script, at);
  if ((char === 'e' || char === 'E') && script.charAt(at + 1) === "'") {
    return skipEscaped(script, at + 2);
  }
  return matchEnd(WORD, script, at) ?? matchEnd(SPACE, script, at) ?? at + 1;
}

function skipQuoted(script: string, from: number, quote: string): number {
  let at = from;
  for (;;) {
    const close = script.indexOf(quote, at);
    if (close < 0) return script.length;
    if (script.charAt(close + 1) !== quote) return close + 1;
    at = close + 2;
  }
}

function skipEscaped(script: string, from: number): number {
  for (let at = from; at < script.length; at += 1) {
    const char = script.charAt(at);
    if (char === '\\') at += 1;
    else if (char === "'" && script.charAt(at + 1) === "'") at += 1;
    else if (char === "'") return at + 1;
  }
  return script.length;
}

function skipDollarQuoted(script: string, at: number): number {
  const bodyStart = matchEnd(DOLLAR_TAG, script, at);
  // A parameter such as $1.
  if (bodyStart === undefined) return at + 1;
  const tag = script.slice(at, bodyStart);
  const close = script.indexOf(tag, bodyStart);
  return close < 0 ? script.length : close + tag.length;
}

/** Block comments nest. */
function skipBlockComment(script: string, from: number): number {
  const edge = /\/\*|\*\//g;
  edge.lastIndex = from;
  let depth = 0;
  for (let match = edge.exec(script); match; match = edge.exec(script)) {
    depth += match[0] === '/*' ? 1 : -1;
    if (depth === 0) return edge.lastIndex;
  }
  return script.length;
}

function isSkippable(script: string, at: number): boolean {
  return /\s/.test(script.charAt(at)) || script.startsWith('--', at) || script.startsWith('/*', at);
}

function isWordStart(char: string): boolean {
  return /[A-Za-z_\u0080-\uffff]/.test(char);
}

function isQuote(char: string): boolean {
  return char === "'";
}

function matchEnd(pattern: RegExp, script: string, at: number): number | undefined {
  pattern.lastIndex = at;
  return pattern.test(script) ? pattern.lastIndex : undefined;
}

function endOf(script: string, index: number): number {
  return index < 0 ? script.length : index;
}

import { printable } from './format.ts';
import type { Paint, Style } from './paint.ts';

/** A piece of a line; its width is counted before it is coloured. */
export type Segment = string | readonly [style: Style, text: string];
export type Line = readonly Segment[];

/** One line of at most `columns` cells: cut with an ellipsis, then coloured. */
export function paintLine(line: Line, columns: number, paint: Paint): string {
  const total = line.reduce((sum, segment) => sum + textOf(segment).length, 0);
  let left = total > columns ? columns - 1 : columns;
  let painted = '';
  for (const segment of line) {
    const text = printable(textOf(segment)).slice(0, left);
    left -= text.length;
    if (text === '') continue;
    painted += typeof segment === 'string' ? text : paint(segment[0], text);
  }
  return total > columns ? `${painted}…` : painted;
}

function textOf(segment: Segment): string {
  return typeof segment === 'string' ? segment : segment[1];
}

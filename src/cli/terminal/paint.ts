import { styleText } from 'node:util';

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan';

/** Colours a text, or leaves it alone where colours are not wanted. */
export type Paint = (style: Style, text: string) => string;

export const plainPaint: Paint = (_style, text) => text;

/** Colours if the stream is a terminal that has them; `hasColors` of Node's own honours NO_COLOR and TERM. */
export function paintFor(stream: {
  readonly isTTY?: boolean;
  readonly hasColors?: () => boolean;
}): Paint {
  const isColoured = stream.isTTY === true && (stream.hasColors?.() ?? false);
  return isColoured
    ? (style, text) => styleText(style, text, { validateStream: false })
    : plainPaint;
}

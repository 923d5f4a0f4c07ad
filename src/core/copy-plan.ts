import { isBinarySafe } from './binary-safe.ts';
import { conjunction } from './row-filter.ts';
import { copiedColumns, type Table } from './table.ts';

/**
 * How tables are cut into parts by ctid range, so that several connections copy one table and a crash
 * repeats at most one part per connection. Everything here is a function of recorded numbers: a resume
 * computes the same parts again.
 */

export type CopyFormat = 'binary' | 'text';

/** Heap pages [firstPage, endPage) of a table. The last part has no end, so that late growth is in it. */
export type Part = {
  /** From 0, in heap order; `understudy.part.part`. */
  readonly number: number;
  readonly firstPage: number;
  readonly endPage: number | undefined;
  /** Bytes on the source, TOAST included and taken as evenly spread; for progress and order only. */
  readonly sourceBytes: number;
};

/** What is recorded when a table starts; its parts follow from it. */
export type TableCut = {
  readonly pages: number;
  readonly partPages: number;
  /** Heap and TOAST. */
  readonly sourceBytes: number;
};

const MIB = 1024 * 1024;
export const PART_BYTES_MIN = 64 * MIB;
export const PART_BYTES_MAX = 1024 * MIB;
/** Parts per job: enough that the jobs end together although parts differ. */
const PARTS_PER_JOB = 8;

/** How large a part should be, given the whole copy. */
export function choosePartBytes(totalBytes: number, jobs: number): number {
  const even = Math.ceil(totalBytes / (PARTS_PER_JOB * jobs));
  return Math.min(PART_BYTES_MAX, Math.max(PART_BYTES_MIN, even));
}

/** The pages of a part of `partBytes`; a table with much TOAST behind few pages gets small ranges. */
export function cutTable(
  size: { readonly pages: number; readonly sourceBytes: number },
  partBytes: number,
): TableCut {
  const parts = Math.max(1, Math.ceil(size.sourceBytes / partBytes));
  const partPages = Math.max(1, Math.ceil(size.pages / parts));
  return { pages: size.pages, sourceBytes: size.sourceBytes, partPages };
}

export function partsOf(cut: TableCut): readonly Part[] {
  const count = Math.max(1, Math.ceil(cut.pages / cut.partPages));
  return Array.from({ length: count }, (_, number) => {
    const firstPage = number * cut.partPages;
    const isLast = number === count - 1;
    const pages = isLast ? cut.pages - firstPage : cut.partPages;
    return {
      number,
      firstPage,
      endPage: isLast ? undefined : firstPage + cut.partPages,
      sourceBytes: cut.pages === 0 ? 0 : Math.round((cut.sourceBytes * pages) / cut.pages),
    };
  });
}

/** The condition that selects a part's rows. Needs a TID range scan (14 and later). */
export function partCondition(part: Part, rowFilter?: string): string {
  const bounds = [
    part.firstPage > 0 ? `ctid >= '(${part.firstPage},0)'::tid` : undefined,
    part.endPage !== undefined ? `ctid < '(${part.endPage},0)'::tid` : undefined,
  ];
  return conjunction(...bounds, rowFilter);
}

/** Binary is faster and exact, but only where both servers read every column the same way. */
export function copyFormat(table: Pick<Table, 'columns'>): CopyFormat {
  return copiedColumns(table).every(isBinarySafe) ? 'binary' : 'text';
}

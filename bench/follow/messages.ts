import type { Endpoint } from '#src/core/endpoint.ts';
import type { Publication } from '#src/shadow/publication.ts';

/** What the benchmark asks of the follower's process, in this order. */
export type Order =
  | {
      readonly kind: 'prepare';
      readonly source: Endpoint;
      readonly target: Endpoint;
      readonly publication: Publication;
      readonly slot: string;
      /** Decimal: a bigint cannot be sent. */
      readonly consistentLsn: string;
    }
  | { readonly kind: 'follow' }
  | { readonly kind: 'stop' };

export type Answer =
  | { readonly kind: 'ready' }
  | { readonly kind: 'stopped'; readonly cpuSeconds: number; readonly peakMb: number }
  | { readonly kind: 'failed'; readonly message: string };

/** How to encrypt; the names and meanings are libpq's. https://www.postgresql.org/docs/current/libpq-ssl.html */
export type SslMode = 'disable' | 'allow' | 'prefer' | 'require' | 'verify-ca' | 'verify-full';

/** One database of one server, with everything needed to reach it. Holds a secret: never print it whole. */
export type Endpoint = {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string | undefined;
  readonly sslMode: SslMode;
  /** Whether SCRAM must prove that nobody sits between us and the server; `prefer` when absent. */
  readonly channelBinding?: 'disable' | 'prefer' | 'require';
  /** PEM text, already read from the files that the user named; the root may be `system`. */
  readonly sslRootCert: string | undefined;
  readonly sslCert: string | undefined;
  readonly sslKey: string | undefined;
  readonly connectTimeoutMs: number;
};

/** `user@host:port/database`, fit for messages and logs. */
export function describeEndpoint(endpoint: Endpoint): string {
  const host = endpoint.host.includes(':') ? `[${endpoint.host}]` : endpoint.host;
  return `${endpoint.user}@${host}:${endpoint.port}/${endpoint.database}`;
}

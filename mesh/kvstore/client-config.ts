import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { dirname, resolve } from 'node:path';
import { parse as parseYaml } from 'yaml';
import { type EtcdTls, type HostAlias, parseUrl } from './etcd-endpoint.ts';

/** What is wrong with a client configuration. */
export type ClientConfigErrorCode = 'unreadable' | 'bad-yaml' | 'bad-field' | 'bad-certificate';

/** A client configuration that cannot be used. `retryable`: files are often half written when first seen. */
export class ClientConfigError extends Error {
  readonly code: ClientConfigErrorCode;
  /** The configuration file. */
  readonly path: string;
  /** The field at fault, where there is one: `trusted-ca-file`, `endpoints[1]`. */
  readonly field: string | undefined;
  readonly retryable = true;

  constructor(
    code: ClientConfigErrorCode,
    path: string,
    options: { field?: string; why: string; cause?: unknown },
  ) {
    const field = options.field === undefined ? '' : `: ${options.field}`;
    super(
      `cannot use etcd client configuration ${path}${field}: ${options.why}`,
      options.cause === undefined ? undefined : { cause: options.cause },
    );
    this.name = 'ClientConfigError';
    this.code = code;
    this.path = path;
    this.field = options.field;
  }
}

/** How to reach an etcd, read from a file in the format of Cilium's `cilium-clustermesh` secret. */
export interface EtcdClientConfig {
  readonly endpoints: readonly string[];
  /** Undefined when every endpoint is plain `http://`. */
  readonly tls: EtcdTls | undefined;
  readonly hostAliases: readonly HostAlias[];
  /** Files that the configuration names, absolute. */
  readonly certificateFiles: readonly string[];
  /** SHA-256 over the file and the certificates: another one means that the connection must be made anew. */
  readonly fingerprint: string;
}

const FILE_FIELDS = { ca: 'trusted-ca-file', cert: 'cert-file', key: 'key-file' } as const;

/**
 * Reads a client configuration and the certificates it names (paths relative to its own folder are allowed). Unknown
 * fields are ignored, as Cilium does (`pkg/kvstore/etcd.go`, etcd's `clientv3/yaml`). Throws ClientConfigError.
 */
export async function readEtcdClientConfig(path: string): Promise<EtcdClientConfig> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new ClientConfigError('unreadable', path, { why: reasonOf(cause), cause });
  }
  return loadEtcdClientConfig(path, text);
}

/** The same for a file whose text is known already. */
export async function loadEtcdClientConfig(path: string, text: string): Promise<EtcdClientConfig> {
  const fields = parseFields(path, text);
  const endpoints = parseEndpointList(path, fields);
  const hostAliases = parseHostAliases(path, fields['cilium-host-aliases']);
  const hash = createHash('sha256').update(text);
  if (endpoints.every((url) => !parseUrl(url).secure)) {
    return {
      endpoints,
      tls: undefined,
      hostAliases,
      certificateFiles: [],
      fingerprint: hash.digest('hex'),
    };
  }
  const [ca, cert, key] = await Promise.all([
    readCertificateFile(path, fields, FILE_FIELDS.ca),
    readCertificateFile(path, fields, FILE_FIELDS.cert),
    readCertificateFile(path, fields, FILE_FIELDS.key),
  ]);
  checkCertificates(path, { ca: ca.content, cert: cert.content, key: key.content });
  for (const { content } of [ca, cert, key]) hash.update('\0').update(content);
  return {
    endpoints,
    tls: { ca: ca.content, cert: cert.content, key: key.content },
    hostAliases,
    certificateFiles: [ca.file, cert.file, key.file],
    fingerprint: hash.digest('hex'),
  };
}

type Fields = Readonly<Record<string, unknown>>;

function parseFields(path: string, text: string): Fields {
  let value: unknown;
  try {
    value = parseYaml(text);
  } catch (cause) {
    const why = `it is not YAML (half written?): ${reasonOf(cause).split('\n')[0]}`;
    throw new ClientConfigError('bad-yaml', path, { why, cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    const found = text.trim() === '' ? 'it is empty' : 'it holds no fields';
    throw new ClientConfigError('bad-yaml', path, {
      why: `${found}, expected endpoints and files`,
    });
  }
  return { ...value };
}

function parseEndpointList(path: string, fields: Fields): string[] {
  const value = fields.endpoints;
  if (!Array.isArray(value) || value.length === 0) {
    throw new ClientConfigError('bad-field', path, {
      field: 'endpoints',
      why: `${describe(value)}, expected a list of at least one URL`,
    });
  }
  return value.map((endpoint: unknown, index) => {
    try {
      if (typeof endpoint !== 'string') throw new Error(`${describe(endpoint)}, expected a URL`);
      parseUrl(endpoint);
      return endpoint;
    } catch (cause) {
      throw new ClientConfigError('bad-field', path, {
        field: `endpoints[${index}]`,
        why: reasonOf(cause),
        cause,
      });
    }
  });
}

function parseHostAliases(path: string, value: unknown): HostAlias[] {
  const field = 'cilium-host-aliases';
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) {
    throw new ClientConfigError('bad-field', path, {
      field,
      why: `${describe(value)}, expected a list`,
    });
  }
  const seen = new Set<string>();
  return value.map((entry: unknown, index) => {
    const wrong = (why: string): never => {
      throw new ClientConfigError('bad-field', path, { field: `${field}[${index}]`, why });
    };
    const fields: { hostname?: unknown; ips?: unknown } =
      typeof entry === 'object' && entry !== null ? entry : {};
    const { hostname, ips } = fields;
    if (typeof hostname !== 'string' || hostname === '') return wrong('expected a hostname');
    if (seen.has(hostname)) return wrong(`hostname ${hostname} is there twice`);
    seen.add(hostname);
    if (!Array.isArray(ips) || ips.length === 0)
      return wrong(`expected at least one ip for ${hostname}`);
    return { hostname, ips: ips.map((ip: unknown) => checkIp(ip, wrong)) };
  });
}

function checkIp(ip: unknown, wrong: (why: string) => never): string {
  if (typeof ip !== 'string' || isIP(ip) === 0)
    return wrong(`${describe(ip)}, expected an IP address`);
  return ip;
}

async function readCertificateFile(
  path: string,
  fields: Fields,
  field: string,
): Promise<{ file: string; content: Buffer }> {
  const value = fields[field];
  if (typeof value !== 'string' || value === '') {
    throw new ClientConfigError('bad-field', path, {
      field,
      why: `${describe(value)}, expected a file: https endpoints need one`,
    });
  }
  const file = resolve(dirname(path), value);
  try {
    return { file, content: await readFile(file) };
  } catch (cause) {
    throw new ClientConfigError('bad-certificate', path, { field, why: reasonOf(cause), cause });
  }
}

/** Finds what TLS would only report as a failed handshake: a truncated file, or a key of another certificate. */
function checkCertificates(path: string, tls: { ca: Buffer; cert: Buffer; key: Buffer }): void {
  const attempt = <T>(field: string, what: string, run: () => T): T => {
    try {
      return run();
    } catch (cause) {
      throw new ClientConfigError('bad-certificate', path, {
        field,
        why: `it holds no PEM ${what} (half written?): ${reasonOf(cause)}`,
        cause,
      });
    }
  };
  attempt(FILE_FIELDS.ca, 'certificate', () => new X509Certificate(tls.ca));
  const certificate = attempt(FILE_FIELDS.cert, 'certificate', () => new X509Certificate(tls.cert));
  const key = attempt(FILE_FIELDS.key, 'private key', () => createPrivateKey(tls.key));
  if (!certificate.checkPrivateKey(key)) {
    throw new ClientConfigError('bad-certificate', path, {
      field: FILE_FIELDS.key,
      why: 'the key does not belong to the certificate in cert-file',
    });
  }
}

function describe(value: unknown): string {
  if (value === undefined || value === null) return 'it is missing';
  return `it is ${Array.isArray(value) ? 'a list' : typeof value} ${JSON.stringify(value).slice(0, 80)}`;
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

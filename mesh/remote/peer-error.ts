import { KvError } from '../kvstore/kvstore.ts';

/** What is wrong between us and a cluster, as far as somebody can act on it. */
export type PeerErrorCode =
  | 'config-missing'
  | 'config-unreadable'
  | 'config-refused'
  | 'id-changed'
  | 'store-replaced'
  | 'own-store'
  | 'file-unreadable';

/** A cluster cannot be read for now. Always retried; what was read before stays in use. */
export class PeerError extends Error {
  readonly code: PeerErrorCode;
  readonly retryable = true;

  constructor(code: PeerErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'PeerError';
    this.code = code;
  }
}

/**
 * One line about a failed connection: what, and what to do. `finding` is what is known to be wrong with certificates, and stands
 * in place of advice.
 */
export function explainFailure(error: unknown, cluster: string, finding?: string): string {
  if (error instanceof PeerError) return error.message;
  if (!(error instanceof KvError)) return error instanceof Error ? error.message : String(error);
  const advice = finding ?? adviceFor(error, cluster);
  const what = condense(error.message);
  return advice === undefined ? what : `${what}: ${advice}`;
}

/** Takes what only a developer of gRPC or OpenSSL could use out of an error's text, and makes it one line. */
function condense(message: string): string {
  return message
    .replace(/\s+/g, ' ')
    .replace(/ ?Resolution note:.*$/, '')
    .replace(/[0-9A-F]{8,}:error:[0-9A-F]+:[^:]*:[^:]*:([^:]*):.*?(?= \(\d{4}-|$)/, '$1')
    .replace(/ \(\d{4}-\d\d-\d\dT[^)]*\)\.?/, '')
    .trim();
}

/** With TLS 1.3 a server refuses a client's certificate after the client has seen the handshake end: the connection just closes. */
function unavailableAdvice(message: string): string {
  return /ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT|ENOTFOUND|EAI_AGAIN/.test(message)
    ? 'check endpoints, and that the server runs'
    : 'check endpoints, that the server runs, and that it trusts the certificate in cert-file';
}

function adviceFor(error: KvError, cluster: string): string | undefined {
  switch (error.code) {
    case 'unauthenticated':
      return (
        certificateAdvice(error.message) ??
        `cluster ${cluster} does not take our certificate, check cert-file and key-file, and that its trust holds our CA`
      );
    case 'permission-denied':
      return `our certificate may not read this, or the file is named after another cluster than the one it leads to`;
    case 'unavailable':
      return certificateAdvice(error.message) ?? unavailableAdvice(error.message);
    case 'timeout':
      return 'the server does not answer, check endpoints and the network in between';
    case 'cluster-changed':
    case 'compacted':
    case 'too-large':
    case 'invalid':
    case 'closed':
      return undefined;
    default:
      return error.code satisfies never;
  }
}

/** What to do about a TLS failure, by the words of OpenSSL or Node; undefined for anything else. */
function certificateAdvice(message: string): string | undefined {
  if (/self[- ]signed|unable to (get|verify)|issuer|CERT_UNTRUSTED/i.test(message)) {
    return 'its server certificate is not of the CA in trusted-ca-file: put the CA of that cluster there';
  }
  if (/altname|ERR_TLS_CERT_ALTNAME/i.test(message)) {
    return 'its server certificate is for another name than the one in endpoints';
  }
  if (/certificate has expired|CERT_HAS_EXPIRED|not yet valid/i.test(message)) {
    return 'renew that certificate, and check the clocks';
  }
  if (/alert|bad certificate|handshake|certificate required|unknown ca/i.test(message)) {
    return 'the server refuses our certificate: check cert-file and key-file, and that its trust holds our CA';
  }
  return undefined;
}

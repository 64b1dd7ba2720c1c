/** Taking secrets out of texts that leave the machine. Pure. */

/** What stands in their place. */
const REDACTED = '[redacted]';

const PATTERNS: readonly { readonly find: RegExp; readonly put: string }[] = [
  // Keys, whole or cut off at the end of a log.
  {
    find: /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g,
    put: REDACTED,
  },
  // The same within JSON, where line ends are written out, or as the data of a Secret.
  { find: /LS0tLS1CRUdJTi[A-Za-z0-9+/=]{16,}/g, put: REDACTED },
  // Service-account tokens and others of their form.
  { find: /\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*/g, put: REDACTED },
  // Ours (`enrollment-token.ts`): id, secret and hash of the authority, with dots between.
  { find: /\bimt\d\.[0-9a-f]{8,}\.[A-Za-z0-9_-]{16,}(\.[A-Za-z0-9_-]+)?/g, put: REDACTED },
  { find: /\b([Bb]earer|[Bb]asic) [A-Za-z0-9+/=._~-]{8,}/g, put: `$1 ${REDACTED}` },
  // Fields by their names.
  {
    find: /(["']?(?:password|passphrase|secret|token|client-key-data|privateKey|private_key|tls\.key)["']?\s*[:=]\s*)(["']?)[^\s"',}]{6,}\2/gi,
    put: `$1$2${REDACTED}$2`,
  },
];

/** The text without what would let anyone in. */
export function redactSecrets(text: string): string {
  return PATTERNS.reduce((left, { find, put }) => left.replace(find, put), text);
}

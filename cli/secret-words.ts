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
  // Names and passwords in addresses.
  { find: /\b([a-z][a-z0-9+.-]*:\/\/)[^\s/@:]+:[^\s/@]+@/gi, put: `$1${REDACTED}@` },
  // Fields by their names: quoted, with quotes that are escaped where JSON is in JSON, or a word; and flags.
  {
    find: field(String.raw`\s*[:=]\s*`, String.raw`(\\*["'])(?:(?!\2).)+\2`),
    put: `$1$2${REDACTED}$2`,
  },
  { find: field(String.raw`\s*[:=]\s*`, String.raw`()[^\s"',}\\]{6,}`), put: `$1${REDACTED}` },
  { find: /(--(?:password|passphrase|secret|token)[ =])[^\s"']{6,}/gi, put: `$1${REDACTED}` },
];

/** A field with the name of a secret, what is between it and its value, and the value. */
function field(between: string, value: string): RegExp {
  const names = 'password|passphrase|secret|token|client-key-data|privateKey|private_key|tls\\.key';
  const quote = String.raw`\\*["']?`;
  return new RegExp(`(${quote}(?:${names})${quote}${between})${value}`, 'gi');
}

/** The text without what would let anyone in. */
export function redactSecrets(text: string): string {
  return PATTERNS.reduce((left, { find, put }) => left.replace(find, put), text);
}

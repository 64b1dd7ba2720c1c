/**
 * Loaded before each test file by `scripts/test-file.ts`: RSA keys that a test's own process asks for come from a stock on disk,
 * always in the same order and none twice. Making one takes a core 0.1 to 0.2 s, and a lab needs a dozen. The programs that tests
 * start make their own.
 */
import {
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  type KeyExportOptions,
  type KeyObject,
  type KeyPairKeyObjectResult,
} from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { projectPath } from '../mesh/runtime/project-path.ts';

/** Stays over runs; whoever finds no key there makes it. */
const FOLDER = projectPath('dist/test-keys');
/** What the stock holds: all that is made here is of this size. */
const BITS = 2048;

/** What callers of `node:crypto` may want of a pair. */
interface Encodings {
  readonly modulusLength?: number;
  readonly publicKeyEncoding?: KeyExportOptions<'pem'>;
  readonly privateKeyEncoding?: KeyExportOptions<'pem'>;
}

/** Node's own, taken before it is replaced below. */
const makePair = promisify(generateKeyPair);
let taken = 0;

async function nextPair(): Promise<KeyPairKeyObjectResult> {
  const name = `${FOLDER}/${taken}.pem`;
  taken += 1;
  try {
    const privateKey = createPrivateKey(readFileSync(name));
    return { privateKey, publicKey: createPublicKey(privateKey) };
  } catch {
    const made = await makePair('rsa', { modulusLength: BITS });
    mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
    const unfinished = `${name}.${process.pid}`;
    const pem = made.privateKey.export({ type: 'pkcs8', format: 'pem' });
    writeFileSync(unfinished, pem, { mode: 0o600 });
    renameSync(unfinished, name);
    return made;
  }
}

function encoded(
  key: KeyObject,
  encoding: KeyExportOptions<'pem'> | undefined,
): string | Buffer | KeyObject {
  return encoding === undefined ? key : key.export(encoding);
}

async function pairAs(options: Encodings): Promise<object> {
  const { publicKey, privateKey } = await nextPair();
  return {
    publicKey: encoded(publicKey, options.publicKeyEncoding),
    privateKey: encoded(privateKey, options.privateKeyEncoding),
  };
}

function isInStock(type: string, options: Encodings): boolean {
  return type === 'rsa' && options.modulusLength === BITS;
}

// The programs use the promise form alone; whoever calls back gets a new key.
Object.defineProperty(generateKeyPair, promisify.custom, {
  value: (type: string, options: Encodings): Promise<object> =>
    isInStock(type, options)
      ? pairAs(options)
      : Reflect.apply(makePair, undefined, [type, options]),
});

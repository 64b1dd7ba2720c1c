/**
 * The file of a backup: a line that names the format, a line of JSON that says whose it is and how it was sealed, then frames of
 * AES-256-GCM under a key that scrypt makes of a passphrase. Both lines are authenticated with every frame, frames are
 * numbered and the last one is marked: none can be changed, left out, moved, or taken from another file.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  randomBytes,
  type ScryptOptions,
  scrypt,
} from 'node:crypto';
import { z } from 'zod';

const MAGIC = 'isthmus-backup-1';
const FRAME_BYTES = 64 * 1024;
const TAG_BYTES = 16;
const MAX_HEADER_BYTES = 4096;
/** 128 MiB of memory and some hundred milliseconds for each passphrase that is tried. */
const SCRYPT = { N: 2 ** 17, r: 8, p: 1 } as const;
const SCRYPT_MEMORY_BYTES = 256 * 1024 * 1024;
const MIN_PASSPHRASE_CHARS = 12;

const headerSchema = z.object({
  cluster: z.object({ name: z.string(), id: z.number() }),
  takenAt: z.iso.datetime(),
  salt: z.string().regex(/^[0-9a-f]{64}$/),
});

/** Whose backup a file is, and of when. */
export interface BackupSubject {
  readonly cluster: { readonly name: string; readonly id: number };
  /** ISO 8601. */
  readonly takenAt: string;
}

/** A file cannot be written or read as a backup. */
export class BackupFileError extends Error {
  readonly code: 'passphrase' | 'damaged' | 'not-a-backup' | 'weak-passphrase';
  readonly retryable = false;

  constructor(code: BackupFileError['code'], message: string) {
    super(message);
    this.name = 'BackupFileError';
    this.code = code;
  }
}

/** Seals what `content` yields; the bytes of the file. Throws BackupFileError for a passphrase that is too short. */
export async function* sealBackup(
  content: AsyncIterable<Buffer>,
  options: { readonly subject: BackupSubject; readonly passphrase: string },
): AsyncGenerator<Buffer, void, undefined> {
  const { subject, passphrase } = options;
  if (passphrase.length < MIN_PASSPHRASE_CHARS) {
    throw new BackupFileError(
      'weak-passphrase',
      `the passphrase has ${passphrase.length} characters, expected ${MIN_PASSPHRASE_CHARS} or more`,
    );
  }
  const salt = randomBytes(32);
  const header = { ...subject, salt: salt.toString('hex') };
  const lines = Buffer.from(`${MAGIC}\n${JSON.stringify(header)}\n`);
  const key = await keyOf(passphrase, salt);
  yield lines;
  let number = 0;
  const frame = (plain: Buffer, isLast: boolean): Buffer => {
    const cipher = createCipheriv('aes-256-gcm', key, nonceOf(number, isLast));
    cipher.setAAD(digestOf(lines));
    number += 1;
    const sealed = Buffer.concat([cipher.update(plain), cipher.final(), cipher.getAuthTag()]);
    const length = Buffer.alloc(4);
    length.writeUInt32BE(sealed.length);
    return Buffer.concat([length, sealed]);
  };
  // By an empty one a wrong passphrase is told from a damaged file.
  yield frame(Buffer.alloc(0), false);
  let rest = Buffer.alloc(0);
  for await (const piece of content) {
    rest = Buffer.concat([rest, piece]);
    while (rest.length > FRAME_BYTES) {
      yield frame(rest.subarray(0, FRAME_BYTES), false);
      rest = rest.subarray(FRAME_BYTES);
    }
  }
  yield frame(rest, true);
}

/** An opened file: whose it is, and what it holds. */
export interface OpenedBackup {
  readonly subject: BackupSubject;
  readonly content: AsyncGenerator<Buffer, void, undefined>;
}

/**
 * Opens a file's bytes. What `content` yields is authentic as far as it goes; that the file is whole is known when it ends.
 * Both throw BackupFileError.
 */
export async function openBackup(
  bytes: AsyncIterable<Buffer>,
  passphrase: string,
): Promise<OpenedBackup> {
  const reader = createByteReader(bytes);
  const magic = await reader.line(MAX_HEADER_BYTES);
  if (magic?.toString() !== MAGIC) {
    throw new BackupFileError('not-a-backup', `it is no backup: it does not begin with ${MAGIC}`);
  }
  const line = await reader.line(MAX_HEADER_BYTES);
  const header = headerSchema.safeParse(parseJson(line?.toString()));
  if (line === undefined || !header.success) {
    throw new BackupFileError('not-a-backup', 'it is no backup: its second line is no header');
  }
  const { cluster, takenAt, salt } = header.data;
  const key = await keyOf(passphrase, Buffer.from(salt, 'hex'));
  const aad = digestOf(Buffer.concat([magic, NEWLINE, line, NEWLINE]));
  const unseal = (sealed: Buffer, nonce: Buffer): Buffer | undefined => {
    const decipher = createDecipheriv('aes-256-gcm', key, nonce);
    decipher.setAAD(aad);
    decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
    try {
      return Buffer.concat([decipher.update(sealed.subarray(0, -TAG_BYTES)), decipher.final()]);
    } catch {
      return undefined;
    }
  };
  const nextFrame = async (): Promise<Buffer | undefined> => {
    const length = (await reader.exactly(4))?.readUInt32BE() ?? 0;
    if (length < TAG_BYTES || length > FRAME_BYTES + TAG_BYTES) return undefined;
    return reader.exactly(length);
  };
  const first = await nextFrame();
  if (first === undefined) throw damaged('it ends before its first frame');
  if (unseal(first, nonceOf(0, false)) === undefined) {
    throw new BackupFileError(
      'passphrase',
      'the passphrase is not the one that the backup was made with, or the first lines of the file were changed',
    );
  }
  const content = async function* (): AsyncGenerator<Buffer, void, undefined> {
    for (let number = 1; ; number += 1) {
      const sealed = await nextFrame();
      if (sealed === undefined) throw damaged(`it ends before its last frame, after ${number}`);
      const more = unseal(sealed, nonceOf(number, false));
      const plain = more ?? unseal(sealed, nonceOf(number, true));
      if (plain === undefined) throw damaged(`frame ${number} was changed`);
      yield plain;
      if (more !== undefined) continue;
      if ((await reader.exactly(1)) !== undefined)
        throw damaged('something follows its last frame');
      return;
    }
  };
  return { subject: { cluster, takenAt }, content: content() };
}

const NEWLINE = Buffer.from('\n');

/** Each file has a key of its own, so a number is used once with it. */
function nonceOf(number: number, isLast: boolean): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUInt8(isLast ? 1 : 0);
  nonce.writeBigUInt64BE(BigInt(number), 4);
  return nonce;
}

function keyOf(passphrase: string, salt: Buffer): Promise<Buffer> {
  const options: ScryptOptions = { ...SCRYPT, maxmem: SCRYPT_MEMORY_BYTES };
  return new Promise((resolve, reject) => {
    scrypt(passphrase.normalize('NFC'), salt, 32, options, (error, key) =>
      error === null ? resolve(key) : reject(error),
    );
  });
}

function digestOf(lines: Buffer): Buffer {
  return createHash('sha256').update(lines).digest();
}

function damaged(why: string): BackupFileError {
  return new BackupFileError('damaged', `the backup is damaged: ${why}; nothing of it is used`);
}

function parseJson(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Reads a stream of bytes in the portions that are asked for. */
function createByteReader(bytes: AsyncIterable<Buffer>): {
  /** Undefined when it ends before. */
  exactly(count: number): Promise<Buffer | undefined>;
  /** Up to a newline, which is left out; undefined when there is none within `max` bytes. */
  line(max: number): Promise<Buffer | undefined>;
} {
  const source = bytes[Symbol.asyncIterator]();
  let held = Buffer.alloc(0);
  const more = async (): Promise<boolean> => {
    const next = await source.next();
    if (next.done === true) return false;
    held = Buffer.concat([held, next.value]);
    return true;
  };
  return {
    async exactly(count) {
      while (held.length < count) if (!(await more())) return undefined;
      const taken = held.subarray(0, count);
      held = held.subarray(count);
      return taken;
    },
    async line(max) {
      for (;;) {
        const end = held.indexOf('\n');
        if (end !== -1) {
          const taken = held.subarray(0, end);
          held = held.subarray(end + 1);
          return taken;
        }
        if (held.length > max || !(await more())) return undefined;
      }
    },
  };
}

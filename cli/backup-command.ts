/** `clustermesh backup` and `clustermesh restore`: what has no other source than the etcd of a cluster, sealed with a passphrase. */
import { randomBytes } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { open, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type ClientReadableStream, type ClientWritableStream, Metadata } from '@grpc/grpc-js';
import { Command } from 'commander';
import { z } from 'zod';
import { createBell } from '../mesh/runtime/bell.ts';
import { systemClock } from '../mesh/runtime/clock.ts';
import { type BackupSubject, openBackup, sealBackup } from './backup-file.ts';
import { CliError } from './cli-error.ts';
import { addClusterOptions, type ClusterFlags, openClusterAccess } from './cluster-access.ts';
import { readLines, readWhole } from './lines.ts';
import { adminMethod } from './registry-client.ts';

/** A key with its value in base64, and some: values of etcd are smaller by far. */
const MAX_LINE_BYTES = 4 * 1024 * 1024;
const MAX_PASSPHRASE_BYTES = 64 * 1024;
const SCHEMA = 1;
/** How long nothing is looked at while the registry is slow. */
const MAX_SILENCE_MS = 1000;

const messageSchema = z.object({
  header: z
    .object({ cluster_name: z.string(), cluster_id: z.number(), taken_at: z.coerce.number() })
    .optional(),
  record: z.object({ key: z.string(), value: z.instanceof(Buffer).optional() }).optional(),
  end: z.object({ records: z.coerce.number().default(0) }).optional(),
});
const lineSchema = z.union([
  z.object({ key: z.string(), value: z.base64() }),
  z.object({ end: z.number() }),
]);
const outcomeSchema = z.object({
  restored: z.coerce.number().default(0),
  present: z.coerce.number().default(0),
  refused: z.coerce.number().default(0),
  voided_tokens: z.coerce.number().default(0),
  notes: z.array(z.string()).default([]),
});

/** What the commands need of the process. */
export interface BackupContext {
  readonly input: AsyncIterable<Buffer>;
  readonly print: (line: string) => void;
  readonly setProblem: () => void;
  readonly signal: AbortSignal;
}

interface BackupFlags extends ClusterFlags {
  readonly passphraseFile: string;
}

/** Builds `backup`. */
export function backupCommand(context: BackupContext): Command {
  const command = new Command('backup').argument('<file>', 'file to write; it must not be there');
  return addPassphraseOption(addClusterOptions(command)).action(
    (file: string, flags: BackupFlags) => backup(file, flags, context),
  );
}

/** Builds `restore`. */
export function restoreCommand(context: BackupContext): Command {
  const command = new Command('restore').argument(
    '<file>',
    'file that "clustermesh backup" has written',
  );
  return addPassphraseOption(addClusterOptions(command)).action(
    (file: string, flags: BackupFlags) => restore(file, flags, context),
  );
}

function addPassphraseOption(command: Command): Command {
  return command.requiredOption(
    '--passphrase-file <file>',
    'file whose first line is the passphrase; - reads it from standard input',
  );
}

async function backup(file: string, flags: BackupFlags, context: BackupContext): Promise<void> {
  const passphrase = await readPassphrase(flags.passphraseFile, context.input);
  using access = await openClusterAccess(flags, context);
  const method = adminMethod('Backup');
  const call: ClientReadableStream<object> = access.client.makeServerStreamRequest(
    method.path,
    (message: object) => method.requestSerialize(message),
    (bytes) => method.responseDeserialize(bytes),
    {},
    new Metadata(),
  );
  // An error without a listener would end the process; the iteration meets it, too.
  call.on('error', () => undefined);
  const temporary = join(dirname(file), `.${basename(file)}.${randomBytes(4).toString('hex')}.tmp`);
  try {
    const messages = call[Symbol.asyncIterator]();
    const subject = await readSubject(messages);
    const counted = { records: 0 };
    const content = toLines(messages, counted);
    // The name is taken first: a backup that is there is never written over.
    const handle = await takeName(file);
    await handle.close();
    try {
      const sealed = Readable.from(sealBackup(content, { subject, passphrase }));
      await pipeline(
        sealed,
        createWriteStream(temporary, { mode: 0o600, flags: 'wx', flush: true }),
      );
      await rename(temporary, file);
    } catch (error) {
      await rm(file, { force: true });
      throw error;
    }
    const { name } = subject.cluster;
    context.print(`${file}: ${counted.records} records of cluster ${name}`);
  } catch (error) {
    throw access.explain(error);
  } finally {
    call.cancel();
    await rm(temporary, { force: true });
  }
}

async function takeName(file: string): Promise<Awaited<ReturnType<typeof open>>> {
  try {
    return await open(file, 'wx', 0o600);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('problem', `cannot write ${file}: ${why}`, { cause });
  }
}

async function readSubject(messages: AsyncIterator<unknown>): Promise<BackupSubject> {
  const first = await messages.next();
  const header = first.done === true ? undefined : messageSchema.parse(first.value).header;
  if (header === undefined) throw new CliError('problem', 'the registry sent no header');
  const { cluster_name: name, cluster_id: id, taken_at: takenAt } = header;
  return { cluster: { name, id }, takenAt: new Date(takenAt).toISOString() };
}

/** What the registry says, a line each, of which the last says how many there were. */
async function* toLines(
  messages: AsyncIterator<unknown>,
  counted: { records: number },
): AsyncGenerator<Buffer, void, undefined> {
  for (;;) {
    const next = await messages.next();
    if (next.done === true) throw new CliError('problem', 'the registry broke off');
    const { record, end } = messageSchema.parse(next.value);
    if (record !== undefined) {
      counted.records += 1;
      const value = record.value?.toString('base64') ?? '';
      yield Buffer.from(`${JSON.stringify({ key: record.key, value })}\n`);
    }
    if (end === undefined) continue;
    if (end.records !== counted.records) {
      throw new CliError(
        'problem',
        `the registry has ${end.records} records, ${counted.records} came`,
      );
    }
    yield Buffer.from(`${JSON.stringify({ end: end.records })}\n`);
    return;
  }
}

async function restore(file: string, flags: BackupFlags, context: BackupContext): Promise<void> {
  const passphrase = await readPassphrase(flags.passphraseFile, context.input);
  // Read to its end before anything of it is used: a file that was cut short restores nothing.
  for await (const _message of readMessages(file, passphrase));
  using access = await openClusterAccess(flags, context);
  const method = adminMethod('Restore');
  const answered: { value?: object; error?: Error; isThere: boolean } = { isThere: false };
  const bell = createBell();
  const call: ClientWritableStream<object> = access.client.makeClientStreamRequest(
    method.path,
    (message: object) => method.requestSerialize(message),
    (bytes) => method.responseDeserialize(bytes),
    new Metadata(),
    (error, value = {}) => {
      Object.assign(answered, error === null ? { value } : { error }, { isThere: true });
      bell.ring();
    },
  );
  // The answer says what went wrong.
  call.on('error', () => undefined);
  call.on('drain', () => bell.ring());
  try {
    for await (const message of readMessages(file, passphrase)) {
      bell.clear();
      // A refusal comes before the end.
      if (answered.isThere) break;
      if (!call.write(message)) await bell.wait(MAX_SILENCE_MS, systemClock);
    }
    call.end();
    while (!answered.isThere) {
      bell.clear();
      await bell.wait(MAX_SILENCE_MS, systemClock);
    }
    if (answered.error !== undefined) throw answered.error;
    const outcome = outcomeSchema.parse(answered.value);
    const { restored, present, refused, voided_tokens: voided, notes } = outcome;
    context.print(`restored ${restored}, present already ${present}, refused ${refused}`);
    if (voided > 0) {
      context.print(`${voided} tokens that could have been used are void: make new ones`);
    }
    for (const note of notes) context.print(`refused: ${note}`);
    if (refused > 0) context.setProblem();
  } catch (error) {
    throw access.explain(error);
  } finally {
    call.cancel();
  }
}

/** The messages of a file, in their order. Throws BackupFileError, and CliError for a file that cannot be read. */
async function* readMessages(
  file: string,
  passphrase: string,
): AsyncGenerator<object, void, undefined> {
  const bytes: AsyncIterable<Buffer> = createReadStream(file);
  const { subject, content } = await openBackup(bytes, passphrase).catch((cause: unknown) => {
    throw cause instanceof Error && 'syscall' in cause
      ? new CliError('usage', `cannot read ${file}: ${cause.message}`, { cause })
      : cause;
  });
  const { cluster, takenAt } = subject;
  yield {
    header: {
      schema: SCHEMA,
      cluster_name: cluster.name,
      cluster_id: cluster.id,
      taken_at: Date.parse(takenAt),
    },
  };
  let records = 0;
  for await (const { bytes: line, number } of readLines(content, MAX_LINE_BYTES)) {
    const parsed = lineSchema.safeParse(parseJson(line?.toString()));
    if (!parsed.success) throw new CliError('problem', `${file}: record ${number} is none`);
    if ('end' in parsed.data) {
      yield { end: { records } };
      return;
    }
    records += 1;
    yield { record: { key: parsed.data.key, value: Buffer.from(parsed.data.value, 'base64') } };
  }
}

/** The first line of a file or of standard input. */
async function readPassphrase(file: string, input: AsyncIterable<Buffer>): Promise<string> {
  const text = file === '-' ? await readWhole(input, MAX_PASSPHRASE_BYTES) : await readText(file);
  const [passphrase = ''] = text.split(/\r?\n/);
  return passphrase;
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new CliError('usage', `cannot read ${file}: ${why}`, { cause });
  }
}

function parseJson(text: string | undefined): unknown {
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** `clustermesh pki check`: what certificates a gate or registry shows, and whether it takes ours. */
import type { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { Command, InvalidArgumentError } from 'commander';
import {
  describeCertificate,
  findDateFault,
  findServerFault,
} from '../mesh/runtime/certificate-words.ts';
import { type HostPort, parseHostPort } from '../mesh/runtime/option-parsers.ts';
import { lookAtServer } from '../mesh/runtime/server-look.ts';
import { parseCertificates } from '../pki/authority-file.ts';
import { CliError } from './cli-error.ts';

interface CheckFlags {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
  readonly name?: string;
}

/** Builds the command. */
export function pkiCheckCommand(print: (line: string) => void): Command {
  return new Command('check')
    .description('look at the certificates of a gate or registry, and whether it takes ours')
    .argument('<host:port>', 'where it listens', toHostPort)
    .requiredOption('--ca <file>', 'authorities that its certificate is to be of')
    .option('--cert <file>', 'certificate that we show')
    .option('--key <file>', 'its key')
    .option('--name <name>', 'name that its certificate is to be for, where that is not the host')
    .action((address: HostPort, flags: CheckFlags) => check(address, flags, print));
}

async function check(
  address: HostPort,
  flags: CheckFlags,
  print: (line: string) => void,
): Promise<void> {
  const { host, port } = address;
  const authorities = await readCertificates(flags.ca);
  const caller = await readCaller(flags);
  const now = Date.now();
  const name = flags.name ?? host;
  const problems: string[] = [];
  const look = await lookAtServer({
    host,
    port,
    name,
    ...(caller === undefined ? {} : { caller }),
  });
  const [server] = look.chain;
  if (server === undefined) {
    throw new CliError('unreachable', `cannot look at ${host} port ${port}: ${look.error}`);
  }
  print(`server: ${describeCertificate(server)}`);
  const fault = findServerFault(look.chain, { authorities, host: name, now });
  if (fault !== undefined) problems.push(`the server's ${fault.text}`);
  if (caller !== undefined) {
    print(`ours: ${describeCertificate(caller.certificate)}`);
    const ours = findDateFault(caller.certificate, now);
    if (ours !== undefined) problems.push(`our ${ours.text}`);
    if (look.takesCaller === false) {
      problems.push(
        `the server does not take our certificate, issued by ${caller.certificate.issuer}: ${look.error}; its log says why`,
      );
    }
  }
  if (problems.length > 0) throw new CliError('problem', problems.join('\n'));
  print('nothing is wrong with them');
}

async function readCaller(
  flags: CheckFlags,
): Promise<{ cert: Buffer; key: Buffer; certificate: X509Certificate } | undefined> {
  if (flags.cert === undefined && flags.key === undefined) return undefined;
  if (flags.cert === undefined || flags.key === undefined) {
    throw new CliError('usage', 'cannot show a certificate: --cert and --key belong together');
  }
  const [cert, key] = await Promise.all([flags.cert, flags.key].map(readOrThrow));
  if (cert === undefined || key === undefined) throw new Error('two files give two contents');
  return { cert, key, certificate: parsed(flags.cert, cert)[0] };
}

async function readCertificates(file: string): Promise<readonly X509Certificate[]> {
  return parsed(file, await readOrThrow(file));
}

function parsed(file: string, content: Buffer): [X509Certificate, ...X509Certificate[]] {
  try {
    return parseCertificates(content.toString('latin1'));
  } catch (cause) {
    throw new CliError('usage', `cannot use ${file}: ${messageOf(cause)}`, { cause });
  }
}

async function readOrThrow(file: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new CliError('usage', `cannot read ${file}: ${messageOf(cause)}`, { cause });
  }
}

function toHostPort(text: string): HostPort {
  try {
    return parseHostPort(text);
  } catch (error) {
    throw new InvalidArgumentError(messageOf(error));
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** `clustermesh pki`: authorities, certificates with Cilium's names, and the directory of peers that agents watch. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import { Argument, Command, InvalidArgumentError } from 'commander';
import { readCa, readRoots } from '../pki/authority-file.ts';
import {
  createCa,
  createEnrollmentCa,
  fingerprintOf,
  issueCertificate,
  type LeafOptions,
} from '../pki/ca.ts';
import { writeCa, writeEnrollmentCa, writePeer, writeSecret } from '../pki/layout.ts';
import {
  adminLeaf,
  localLeaf,
  machineLeaf,
  nodeLeaf,
  remoteLeaf,
  SECRET_NAMES,
  serverLeaf,
} from '../pki/names.ts';
import { CliError } from './cli-error.ts';
import { pkiCheckCommand } from './pki-check.ts';
import { pkiKubernetesCommand } from './pki-kubernetes.ts';
import { pkiRenewCommand, pkiRotateCommand } from './pki-renew.ts';
import { pkiShowCommand } from './pki-show.ts';

const KINDS = ['server', 'admin', 'remote', 'local', 'node', 'machine'] as const;
type Kind = (typeof KINDS)[number];

interface IssueFlags {
  readonly ca: string;
  readonly out: string;
  readonly dns: readonly string[];
  readonly ip: readonly string[];
  readonly validityDays: number;
}

interface EnrollmentFlags {
  readonly ca: string;
  readonly out: string;
  readonly validityDays: number;
}

interface PeerFlags {
  readonly out: string;
  readonly endpoint: readonly string[];
  readonly peerCa: string;
  readonly cert: string;
  readonly key: string;
  readonly hostAlias: readonly { hostname: string; ip: string }[];
}

/** Builds the command. `print` gets what it has to say; `setProblem` is called when a certificate needs a person. */
export function pkiCommand(print: (line: string) => void, setProblem: () => void): Command {
  const command = new Command('pki');
  command
    .command('init')
    .description("make a cluster's authority: ca.crt and ca.key")
    .requiredOption('--out <dir>', 'folder to write to')
    .option('--common-name <name>', 'name of the authority', 'Cilium CA')
    .option('--validity-days <days>', 'how long it is valid', wholeNumber, 1095)
    .action((flags: { out: string; commonName: string; validityDays: number }) =>
      init(flags, print),
    );
  command
    .command('issue')
    .description('make a certificate: <out>/<name>/{ca.crt,tls.crt,tls.key}')
    .addArgument(new Argument('<kind>', 'what it is for').choices(KINDS))
    .argument('<name>', 'the cluster; for node and machine its name')
    .requiredOption('--ca <dir>', 'folder of the authority')
    .requiredOption('--out <dir>', 'folder to write to')
    .option('--dns <name>', 'further DNS name of a server (may be repeated)', collect, [])
    .option('--ip <address>', 'further address of a server (may be repeated)', collectIp, [])
    .option('--validity-days <days>', 'how long it is valid', wholeNumber, 1095)
    .action((kind: Kind, name: string, flags: IssueFlags) =>
      issue(kind, { name, ...flags }, print),
    );
  command
    .command('enrollment')
    .description(
      `make the authority that the registry signs machines with: <out>/${SECRET_NAMES.enrollment}/{ca.crt,tls.crt,tls.key}`,
    )
    .requiredOption('--ca <dir>', "folder of the cluster's authority")
    .requiredOption('--out <dir>', 'folder to write to')
    .option('--validity-days <days>', 'how long it is valid', wholeNumber, 1095)
    .action((flags: EnrollmentFlags) => makeEnrollmentCa(flags, print));
  command
    .command('peer')
    .description(
      'make a peer known to agents: writes its file and certificates into the directory they watch',
    )
    .argument('<peer>', "the peer cluster's name")
    .requiredOption('--out <dir>', 'directory of peers (--clustermesh-config of the agents)')
    .requiredOption(
      '--endpoint <url>',
      "the peer's gate, such as https://beta.mesh.cilium.io:2379 (may be repeated)",
      collect,
    )
    .requiredOption('--peer-ca <file>', "the peer's authority, which verifies its server")
    .requiredOption('--cert <file>', 'certificate that we show to the peer')
    .requiredOption('--key <file>', 'its key')
    .option(
      '--host-alias <name=ip>',
      'address of a name that no name server knows (may be repeated)',
      collectAlias,
      [],
    )
    .action((peer: string, flags: PeerFlags) => addPeer(peer, flags, print));
  command.addCommand(pkiShowCommand(print, setProblem));
  command.addCommand(pkiCheckCommand(print));
  command.addCommand(pkiRenewCommand(print));
  command.addCommand(pkiKubernetesCommand(print));
  command.addCommand(pkiRotateCommand(print));
  return command;
}

async function init(
  flags: { out: string; commonName: string; validityDays: number },
  print: (line: string) => void,
): Promise<void> {
  for (const name of ['ca.crt', 'ca.key']) {
    // A second authority in its place would make every certificate of the first one worthless.
    if (existsSync(join(flags.out, name))) {
      throw new CliError(
        'problem',
        `cannot make an authority in ${flags.out}: ${name} is there already; move it away first`,
      );
    }
  }
  const ca = await createCa({ commonName: flags.commonName, validityDays: flags.validityDays });
  await writeCa(flags.out, ca);
  print(`${join(flags.out, 'ca.crt')}: ${flags.commonName}, SHA-256 ${fingerprintOf(ca.root)}`);
}

async function issue(
  kind: Kind,
  options: IssueFlags & { name: string },
  print: (line: string) => void,
): Promise<void> {
  const ca = await readCa(options.ca);
  const leaf = { ...leafOf(kind, options), validityDays: options.validityDays };
  const pair = await issueCertificate(ca, leaf);
  const secret = kind === 'node' || kind === 'machine' ? leaf.commonName : SECRET_NAMES[kind];
  const files = await writeSecret(options.out, secret, { ca: await readRoots(options.ca), pair });
  print(`${files.certificate}: ${leaf.commonName}, SHA-256 ${fingerprintOf(pair.certificate)}`);
}

async function makeEnrollmentCa(
  { ca, out, validityDays }: EnrollmentFlags,
  print: (line: string) => void,
): Promise<void> {
  const enrollment = await createEnrollmentCa(await readCa(ca), { validityDays });
  const files = await writeEnrollmentCa(out, { ...enrollment, root: await readRoots(ca) });
  print(`${files.certificate}: SHA-256 ${fingerprintOf(enrollment.certificate)}`);
}

async function addPeer(
  peer: string,
  flags: PeerFlags,
  print: (line: string) => void,
): Promise<void> {
  const [ca, certificate, privateKey] = await Promise.all(
    [flags.peerCa, flags.cert, flags.key].map(readText),
  );
  const hostnames = [...new Set(flags.hostAlias.map(({ hostname }) => hostname))];
  // Agents read the paths in the file from wherever they run.
  await writePeer(resolve(flags.out), peer, {
    endpoints: flags.endpoint,
    ca: ca ?? '',
    client: { certificate: certificate ?? '', privateKey: privateKey ?? '' },
    ...(hostnames.length === 0
      ? {}
      : {
          hostAliases: hostnames.map((hostname) => ({
            hostname,
            ips: flags.hostAlias.filter((alias) => alias.hostname === hostname).map(({ ip }) => ip),
          })),
        }),
  });
  print(`${join(flags.out, peer)}: ${flags.endpoint.join(', ')}`);
}

function leafOf(kind: Kind, { name, dns, ip }: IssueFlags & { name: string }): LeafOptions {
  switch (kind) {
    case 'server':
      return serverLeaf(name, { dnsNames: dns, ipAddresses: ip });
    case 'admin':
      return adminLeaf(name);
    case 'remote':
      return remoteLeaf(name);
    case 'local':
      return localLeaf(name);
    case 'node':
      return nodeLeaf(name);
    case 'machine':
      return machineLeaf(name);
    default:
      return kind satisfies never;
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    throw new CliError(
      'usage',
      `cannot read ${file}: ${cause instanceof Error ? cause.message : String(cause)}`,
      {
        cause,
      },
    );
  }
}

function wholeNumber(text: string): number {
  if (!/^[1-9]\d{0,4}$/.test(text))
    throw new InvalidArgumentError('expected a number of days, 1 to 99999');
  return Number(text);
}

function collect(text: string, before: readonly string[] | undefined): string[] {
  return [...(before ?? []), text];
}

function collectIp(text: string, before: readonly string[]): string[] {
  if (isIP(text) === 0) throw new InvalidArgumentError('expected an IP address');
  return [...before, text];
}

function collectAlias(
  text: string,
  before: readonly { hostname: string; ip: string }[],
): { hostname: string; ip: string }[] {
  const [hostname = '', ip = ''] = text.split('=');
  if (hostname === '' || isIP(ip) === 0) {
    throw new InvalidArgumentError('expected NAME=ADDRESS, such as beta.mesh.cilium.io=192.0.2.1');
  }
  return [...before, { hostname, ip }];
}

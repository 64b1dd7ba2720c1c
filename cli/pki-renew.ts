/** `clustermesh pki renew`, `clustermesh pki rotate-ca`: certificates in files made anew. */
import { Command, Option } from 'commander';
import { fingerprintOf } from '../pki/ca.ts';
import { renewCertificates } from '../pki/renewal.ts';
import { type RotationStep, readRotation, rotateCa } from '../pki/rotation.ts';
import { CliError } from './cli-error.ts';

/** Builds `renew`. */
export function pkiRenewCommand(print: (line: string) => void): Command {
  return new Command('renew')
    .description('renew what an authority has issued and two thirds of whose life are over')
    .argument('<path...>', 'files, and folders whose files below are looked at')
    .requiredOption('--ca <dir>', 'folder of the authority')
    .option('--all', 'also what is not due', false)
    .action((paths: string[], flags: { ca: string; all: boolean }) => renew(paths, flags, print));
}

async function renew(
  paths: readonly string[],
  flags: { readonly ca: string; readonly all: boolean },
  print: (line: string) => void,
): Promise<void> {
  const renewals = await renewCertificates(paths, { caFolder: flags.ca, all: flags.all });
  const failed: string[] = [];
  for (const renewal of renewals) {
    switch (renewal.kind) {
      case 'renewed': {
        const { certificate, path } = renewal;
        const until = new Date(certificate.validTo).toISOString();
        print(`${path}: renewed, valid until ${until}, SHA-256 ${fingerprintOf(certificate.raw)}`);
        break;
      }
      case 'good':
        print(`${renewal.path}: renewal due ${new Date(renewal.due).toISOString()}`);
        break;
      case 'failed':
        failed.push(renewal.path === '' ? renewal.reason : `${renewal.path}: ${renewal.reason}`);
        break;
      default:
        renewal satisfies never;
    }
  }
  if (failed.length > 0) throw new CliError('problem', failed.join('\n'));
  if (renewals.length === 0) {
    throw new CliError('problem', `no certificate there is of the authority in ${flags.ca}`);
  }
}

const NEXT_STEPS = {
  steady: 'nothing is being replaced; "--stage add" begins',
  added:
    'a new authority waits; when every bundle holds it, those at peers and on machines as well, go on with "--stage switch"',
  switched:
    'the new authority signs; when nobody uses a certificate of the old one, machines and nodes included, end with "--stage remove"',
} as const;

/** Builds `rotate-ca`. */
export function pkiRotateCommand(print: (line: string) => void): Command {
  return new Command('rotate-ca')
    .description('replace the authority of a cluster while everything goes on, in three steps')
    .argument(
      '[path...]',
      'files, and folders whose files below are looked at: certificates and bundles, here and at peers',
    )
    .requiredOption('--ca <dir>', 'folder of the authority')
    .addOption(
      new Option(
        '--stage <step>',
        'add: a new one is believed beside the old; switch: it signs; remove: the old one is believed no more. Without: says how far it is',
      ).choices(['add', 'switch', 'remove']),
    )
    .action((paths: string[], flags: { ca: string; stage?: RotationStep }) =>
      rotate(paths, flags, print),
    );
}

async function rotate(
  paths: readonly string[],
  flags: { readonly ca: string; readonly stage?: RotationStep },
  print: (line: string) => void,
): Promise<void> {
  if (flags.stage !== undefined) {
    if (paths.length === 0) {
      throw new CliError(
        'usage',
        'cannot replace an authority: expected the folders that hold its certificates and bundles',
      );
    }
    const lines = await rotateCa(flags.ca, flags.stage, { paths });
    for (const line of lines) print(line);
    if (lines.length === 0) print('everything was as it should be');
  }
  const { stage, signing, next, old } = await readRotation(flags.ca);
  print(`signs: SHA-256 ${fingerprintOf(signing.raw)}`);
  if (next !== undefined) print(`waits: SHA-256 ${fingerprintOf(next.raw)}`);
  for (const root of old) print(`believed still: SHA-256 ${fingerprintOf(root.raw)}`);
  print(NEXT_STEPS[stage]);
}

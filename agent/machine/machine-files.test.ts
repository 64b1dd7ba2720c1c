import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { openTempDir } from '../../mesh/testing/temp-dir.ts';
import {
  certificatesWrittenAt,
  makeStateFolder,
  readCertificates,
  readMachineFile,
  removeMachineFiles,
  removeRemains,
  reserveSpace,
  writeCertificates,
  writeMachineFile,
} from './machine-files.ts';

const FIRST = { ca: 'ca 1', certificate: 'certificate 1', key: 'key 1' };
const SECOND = { ca: 'ca 2', certificate: 'certificate 2', key: 'key 2' };

test('certificates are replaced all at once', async (t) => {
  await using dir = await openTempDir('machine');
  t.equal(readCertificates(dir.path), undefined);
  writeCertificates(dir.path, FIRST);
  t.same(readCertificates(dir.path), FIRST);
  const former = readlinkSync(dir.file('certs'));
  writeCertificates(dir.path, SECOND, 1_000_000);
  t.same(readCertificates(dir.path), SECOND);
  t.notOk(existsSync(dir.file(former)));
  t.equal(certificatesWrittenAt(dir.path), 1_000_000);
  t.equal(statSync(dir.file('certs', 'tls.key')).mode & 0o777, 0o600);
  t.equal(statSync(dir.file('certs')).mode & 0o777, 0o700);
  rmSync(dir.file('certs', 'tls.key'));
  t.throws(() => readCertificates(dir.path), { code: 'state', message: /does not hold all of/ });
});

test('what a killed process left goes, and what others wrote stays', async (t) => {
  await using dir = await openTempDir('machine');
  writeCertificates(dir.path, FIRST);
  writeMachineFile(dir.path, 'machine.json', '{}');
  mkdirSync(dir.file('.certs-0123abcd'));
  writeFileSync(dir.file('machine.json.0123abcd.tmp'), 'half');
  writeFileSync(dir.file('notes.txt'), 'mine');
  removeRemains(dir.path);
  t.same(readdirSync(dir.path).sort(), [
    readlinkSync(dir.file('certs')),
    'certs',
    'machine.json',
    'notes.txt',
  ]);
  t.same(readCertificates(dir.path), FIRST);
  removeMachineFiles(dir.path);
  t.same(readdirSync(dir.path), ['notes.txt']);
  removeMachineFiles(dir.path);
  removeMachineFiles(dir.file('nowhere'));
  removeRemains(dir.file('nowhere'));
});

test('a full disk leaves what was there, and says so', { skip: mountSkipReason() }, async (t) => {
  await using dir = await openTempDir('machine');
  const small = dir.file('small');
  mkdirSync(small);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', small]);
  try {
    const state = join(small, 'state');
    makeStateFolder(state);
    writeCertificates(state, FIRST);
    writeMachineFile(state, 'machine.json', 'before');
    {
      using _space = reserveSpace(state, 64 * 1024);
      t.equal(readdirSync(state).filter((name) => name.endsWith('.tmp')).length, 1);
    }
    const names = readdirSync(state).sort();
    const full = {
      code: 'disk',
      retryable: true,
      message: /the disk is full; free some space \(df -h .*\) and run the command again/,
    };
    t.throws(() => reserveSpace(state, 1024 * 1024), full);
    const large = 'x'.repeat(512 * 1024);
    t.throws(() => writeMachineFile(state, 'machine.json', large), full);
    t.throws(() => writeCertificates(state, { ...SECOND, certificate: large }), full);
    t.same(readdirSync(state).sort(), names, 'nothing half written');
    t.equal(readMachineFile(state, 'machine.json'), 'before');
    t.same(readCertificates(state), FIRST);
  } finally {
    execFileSync('umount', [small]);
  }
});

test('what cannot be written or read is named', async (t) => {
  await using dir = await openTempDir('machine');
  writeFileSync(dir.file('file'), '');
  t.throws(() => makeStateFolder(dir.file('file', 'state')), {
    code: 'disk',
    message: /cannot write .*state/,
  });
  mkdirSync(dir.file('machine.json'));
  t.throws(() => readMachineFile(dir.path, 'machine.json'), { code: 'state', message: /EISDIR/ });
  t.equal(readFileSync(dir.file('file'), 'utf8'), '');
});

function mountSkipReason(): string | false {
  return process.geteuid?.() === 0 ? false : 'only root may mount';
}

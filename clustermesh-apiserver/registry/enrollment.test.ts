import { createHash, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { rename } from 'node:fs/promises';
import { test } from 'tap';
import { etcdSkipReason } from '../../mesh/testing/etcd-server.ts';
import type { ManualClock } from '../../mesh/testing/manual-clock.ts';
import { createCa, createEnrollmentCa, createIntermediateCa } from '../../pki/ca.ts';
import { writePrivateFile } from '../../pki/layout.ts';
import { openIssuingAuthority } from './certificate-authority.ts';
import { createEnrollmentLimits } from './enrollment-limits.ts';
import {
  callFrom,
  enrollRequest,
  type MachineKeys,
  makeMachineKeys,
  openEnrollmentSite,
  POD_ADDRESS,
  renewRequest,
} from './testing/enrollment-site.ts';
import { TOKEN_USES_PREFIX } from './token-record.ts';

function hashOf({ spki }: MachineKeys): string {
  return createHash('sha256').update(spki).digest('hex');
}

const skip = etcdSkipReason(process.env);
const signal = new AbortController().signal;

/** Lets time pass, on both clocks, until something holds: files are noticed by the kernel, and read a little later. */
async function until(what: string, clock: ManualClock, holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 20_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`not within 20 s: ${what}`);
    await clock.advance(100);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test('machines enrol by a token, and by nothing else', { skip, timeout: 120_000 }, async (t) => {
  const site = await openEnrollmentSite();
  t.teardown(() => site[Symbol.asyncDispose]());
  const { enrollment, clock, machines, tokens, renewal, authority } = site;
  const keys = await makeMachineKeys();
  const otherKeys = await makeMachineKeys();
  const used = async (id: string): Promise<number> =>
    (await site.store.count(`${TOKEN_USES_PREFIX}${id}/`)).count;

  await t.test('what is granted comes from the token alone', async (t) => {
    const token = await site.token({
      names: 'db1',
      namespace: 'shop',
      labels: { app: 'db' },
      address_ranges: ['192.0.2.0/24'],
    });
    const machine = { token, name: 'db1', address: '192.0.2.1', keys };
    const forged = { labels: { role: 'admin' }, namespace: 'kube-system' };
    const outcome = await enrollment.enrol(callFrom('192.0.2.1', enrollRequest(machine, forged)));
    if (outcome.kind === 'refused') throw new Error(outcome.details);
    t.match(outcome.record, { name: 'db1', namespace: 'shop', labels: { app: 'db' } });
    t.notOk('role' in outcome.record.labels);
    const leaf = new X509Certificate(outcome.certificate);
    const [, issuer] = outcome.certificate.split(/(?<=-----END CERTIFICATE-----\n)/);
    t.equal(leaf.subject, 'CN=machine-db1');
    t.same(leaf.keyUsage, ['1.3.6.1.5.5.7.3.2'], 'a client, and no server');
    t.ok(leaf.verify(new X509Certificate(issuer ?? '').publicKey));
    t.ok(new X509Certificate(issuer ?? '').verify(new X509Certificate(site.ca.root).publicKey));
    t.same(leaf.publicKey.export({ type: 'spki', format: 'der' }), keys.spki);
    t.ok(Math.abs(Date.parse(leaf.validTo) - clock.now() - 3_600_000) < 2000);
    t.equal(outcome.trustBundle, site.ca.root);
    t.equal(machines.get('db1')?.state, 'enrolled');
    t.match(
      site.lines.filter((line) => line.includes('a machine was enrolled')),
      [/"machine":"db1","from":"192.0.2.1"/],
    );
  });

  await t.test('an answer that was lost is given again without a further use', async (t) => {
    const token = await site.token({ names: 'lost-*', uses: 2 });
    const machine = { token, name: 'lost-1', address: '192.0.2.2', keys: otherKeys };
    const call = callFrom('192.0.2.2', enrollRequest(machine));
    t.match(await enrollment.enrol(call), { kind: 'enrolled' });
    t.match(await enrollment.enrol(call), { kind: 'enrolled' });
    t.equal(await used(token.id), 1);
    const [listing] = (await tokens.list(signal)).filter(({ record }) => record.id === token.id);
    t.match(listing, { state: 'usable', record: { usesLeft: 1 } });
    t.match(enrollment.status, { repeated: 1 });
  });

  await t.test('each thing that is wrong has its own answer', async (t) => {
    const token = await site.token({
      names: 'web-*',
      address_ranges: ['192.0.2.0/24', '198.51.100.7/32'],
    });
    const other = await site.token({ names: '*', uses: 5 });
    const revoked = await site.token({ names: 'web-*' });
    await tokens.revoke(revoked.id, { by: 'admin-alpha', from: '' }, signal);
    const good = { token, name: 'web-1', address: '192.0.2.3', keys };
    const small = await makeMachineKeys(1024);
    const ec = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
    const ecSpki = ec.publicKey.export({ type: 'spki', format: 'der' });
    const cases: readonly [string, object, string, RegExp, string?][] = [
      ['nothing', {}, 'malformed', /schema 0 is not known, expected 1/],
      ['a wrong secret', enrollRequest(good, { token_secret: Buffer.alloc(32) }), 'bad-token', /./],
      ['no secret', enrollRequest(good, { token_secret: undefined }), 'bad-token', /./],
      ['the secret of another', enrollRequest(good, { token_id: other.id }), 'bad-token', /./],
      ['no such token', enrollRequest(good, { token_id: 'f'.repeat(20) }), 'bad-token', /./],
      ['a path', enrollRequest(good, { token_id: `../tokens/${token.id}` }), 'bad-token', /./],
      [
        'another name',
        enrollRequest({ ...good, name: 'db' }),
        'bad-name',
        /the token is for web-\*, and not for db/,
      ],
      ['no name', enrollRequest({ ...good, name: '' }), 'bad-name', /cannot be called ""/],
      [
        'a path as name',
        enrollRequest({ ...good, name: 'web-/../x' }),
        'bad-name',
        /cannot be called/,
      ],
      [
        'a proof for another name',
        enrollRequest({ ...good, name: 'web-2' }, { machine_name: 'web-1' }),
        'bad-key',
        /the proof does not belong/,
      ],
      [
        'a proof by another key',
        enrollRequest(good, { public_key: otherKeys.spki }),
        'bad-key',
        /the proof does not belong/,
      ],
      ['no proof', enrollRequest(good, { proof: undefined }), 'bad-key', /the proof does not/],
      [
        'an EC key',
        enrollRequest(good, { public_key: ecSpki }),
        'bad-key',
        /it is ec, expected RSA/,
      ],
      [
        'a small key',
        enrollRequest({ ...good, keys: small }),
        'bad-key',
        /1024 bits, expected 2048/,
      ],
      ['no key', enrollRequest(good, { public_key: Buffer.from('x') }), 'bad-key', /no public key/],
      ['no address', enrollRequest(good, { addresses: [] }), 'malformed', /names no address/],
      ['a name as address', enrollRequest({ ...good, address: 'x' }), 'bad-address', /./],
      ['loopback', enrollRequest({ ...good, address: '127.0.0.1' }), 'bad-address', /./],
      ['link-local', enrollRequest({ ...good, address: 'fe80::1' }), 'bad-address', /./],
      ['multicast', enrollRequest({ ...good, address: '224.0.0.1' }), 'bad-address', /./],
      [
        'outside of the ranges',
        enrollRequest({ ...good, address: '203.0.113.1' }),
        'bad-address',
        /203.0.113.1 is outside of what the machine's token allows/,
      ],
      [
        'the address of a pod',
        enrollRequest({ ...good, address: POD_ADDRESS }),
        'bad-address',
        /held by pod default\/web/,
      ],
      [
        "the apiserver's own",
        enrollRequest({ ...good, address: '192.0.2.250' }),
        'bad-address',
        /./,
      ],
      [
        'an address behind translation',
        enrollRequest({ ...good, address: '198.51.100.7' }),
        'address-translated',
        /came from 192.0.2.3.*198.51.100.7.*NAT.*VXLAN does not cross/s,
      ],
      [
        'a name that is taken',
        enrollRequest({ token: other, name: 'db1', address: '192.0.2.3', keys: otherKeys }),
        'name-taken',
        /another key.*clustermesh vm remove db1/s,
      ],
      [
        'a revoked token',
        enrollRequest({ ...good, token: revoked }),
        'token-revoked',
        /was revoked/,
      ],
    ];
    const texts = new Set<string>();
    for (const [what, message, reason, details] of cases) {
      // A minute each, so that no source has to wait.
      await clock.advance(10_000);
      const outcome = await enrollment.enrol(callFrom('192.0.2.3', message));
      t.match(outcome, { kind: 'refused', reason, details }, what);
      if (outcome.kind === 'refused' && reason === 'bad-token') texts.add(outcome.details);
    }
    t.equal(texts.size, 1, 'no answer tells whether a token is there');
    t.equal(await used(token.id), 0, 'no use is taken by what is refused');
    t.equal(machines.get('web-1'), undefined);
    t.match(await enrollment.enrol(callFrom('192.0.2.3', enrollRequest(good))), {
      kind: 'enrolled',
    });
    t.match(
      await enrollment.enrol(
        callFrom('192.0.2.4', enrollRequest({ ...good, name: 'web-9', address: '192.0.2.4' })),
      ),
      { reason: 'token-used-up', details: /clustermesh vm token list/ },
      'a stolen token that was used',
    );
    await clock.advance(3_600_000);
    t.match(
      await enrollment.enrol(callFrom('192.0.2.3', enrollRequest(good))),
      { reason: 'token-expired' },
      'also for the machine that used it',
    );
  });

  await t.test('of two replicas that are asked at once, one lets one machine in', async (t) => {
    const token = await site.token({ names: 'race-*' });
    const second = await site.openReplica();
    const outcomes = await Promise.all(
      [enrollment, second.enrollment].map((replica, index) => {
        const address = `192.0.2.${20 + index}`;
        const machine = { token, name: `race-${index}`, address, keys };
        return replica.enrol(callFrom(address, enrollRequest(machine)));
      }),
    );
    t.equal(outcomes.filter(({ kind }) => kind === 'enrolled').length, 1);
    t.match(
      outcomes.find(({ kind }) => kind === 'refused'),
      { reason: 'token-used-up' },
    );
    t.equal(await used(token.id), 1);
  });

  await t.test(
    'a certificate is renewed for a new key, until the machine is removed',
    async (t) => {
      const token = await site.token({ names: 'ren', uses: 1 });
      const machine = { token, name: 'ren', address: '192.0.2.30', keys };
      await enrollment.enrol(callFrom('192.0.2.30', enrollRequest(machine)));
      const caller = { commonName: 'machine-ren', publicKeyHash: hashOf(keys), signal };
      const renewed = await renewal.renew(renewRequest('machine-ren', otherKeys), caller);
      if (renewed.kind === 'refused') throw new Error(renewed.details);
      const leaf = new X509Certificate(renewed.certificate);
      t.equal(leaf.subject, 'CN=machine-ren');
      t.same(leaf.publicKey.export({ type: 'spki', format: 'der' }), otherKeys.spki);
      const wrong: readonly [string, object, string, string, RegExp][] = [
        [
          'of a node',
          renewRequest('node-ren', keys),
          'node-ren',
          'forbidden',
          /is not of a machine/,
        ],
        ['for another', renewRequest('machine-db1', keys), 'machine-ren', 'malformed', /proof/],
        ['unknown', renewRequest('machine-no', keys), 'machine-no', 'forbidden', /not known here/],
        [
          'the same key',
          renewRequest('machine-ren', keys),
          'machine-ren',
          'malformed',
          /expected a new/,
        ],
        ['no schema', {}, 'machine-ren', 'malformed', /schema 0/],
        [
          'no key',
          renewRequest('machine-ren', keys, { public_key: undefined }),
          'machine-ren',
          'malformed',
          /no public key/,
        ],
      ];
      for (const [what, message, commonName, code, details] of wrong) {
        const who = { commonName, publicKeyHash: hashOf(keys), signal };
        t.match(await renewal.renew(message, who), { code, details }, what);
      }
      t.match(await machines.remove('ren', signal), { kind: 'taken' });
      t.match(await renewal.renew(renewRequest('machine-ren', keys), caller), {
        code: 'forbidden',
        details: /was removed/,
      });
      t.match(
        await enrollment.enrol(callFrom('192.0.2.30', enrollRequest(machine))),
        { reason: 'bad-key', details: /machine ren, which has been removed/ },
        'nor does the token of then bring it back',
      );
      const fresh = await site.token({ names: 'ren' });
      const third = await makeMachineKeys();
      t.match(
        await enrollment.enrol(
          callFrom('192.0.2.30', enrollRequest({ ...machine, token: fresh, keys: third })),
        ),
        { kind: 'enrolled' },
        'its name may be used anew',
      );
    },
  );

  await t.test('10,000 bad tokens from as many addresses leave nothing behind', async (t) => {
    const message = enrollRequest({
      token: { id: 'a'.repeat(20), secret: Buffer.alloc(32) },
      name: 'x',
      address: '192.0.2.3',
      keys,
    });
    const limits = createEnrollmentLimits({ clock, totalBurst: 500, totalRefillMs: 10 });
    const attacked = await site.openReplica(limits);
    const attack = async (first: number, count: number): Promise<void> => {
      const one = async (index: number): Promise<void> => {
        const source = `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`;
        const outcome = await attacked.enrollment.enrol(callFrom(source, message));
        if (outcome.kind !== 'refused') throw new Error('a bad token was taken');
      };
      for (let index = first; index < first + count; index += 100) {
        await Promise.all(Array.from({ length: 100 }, (_, next) => one(index + next)));
      }
    };
    await attack(0, 1000);
    const before = process.memoryUsage().heapUsed;
    const logged = site.lines.length;
    // So many at once and no more are looked at; the others are told to come back.
    await attack(1000, 9000);
    const grown = process.memoryUsage().heapUsed - before;
    t.ok(grown < 64 * 1024 * 1024, `${Math.round(grown / 1024)} KiB more`);
    t.ok(limits.sources <= 4096);
    t.match(attacked.enrollment.status.refused, { 'bad-token': 500, 'rate-limited': 9500 });
    t.ok(site.lines.length - logged <= 9000, 'at most a line for a source');
    await clock.advance(60_000);
    const token = await site.token({ names: 'after' });
    t.match(
      await attacked.enrollment.enrol(
        callFrom(
          '192.0.2.60',
          enrollRequest({ token, name: 'after', address: '192.0.2.60', keys }),
        ),
      ),
      { kind: 'enrolled' },
      'others are let in when it is over',
    );
  });

  await t.test('who is refused again and again has to wait, and is logged once', async (t) => {
    const bad = enrollRequest({
      token: { id: 'b'.repeat(20), secret: Buffer.alloc(32) },
      name: 'x',
      address: '192.0.2.70',
      keys,
    });
    const logged = site.lines.length;
    for (let attempt = 0; attempt < 40; attempt += 1) {
      await enrollment.enrol(callFrom('192.0.2.70', bad));
    }
    t.match(await enrollment.enrol(callFrom('192.0.2.70', bad)), {
      reason: 'rate-limited',
      details: /too many attempts from this address: try again in \d+ s/,
    });
    t.equal(site.lines.length - logged, 2, 'once for the token, once for the rate');
    t.ok(site.limits.isShut(callFrom('192.0.2.70', {}).from));
    t.notOk(site.limits.isShut(callFrom('192.0.2.71', {}).from));
    await clock.advance(600_000);
    t.notOk(site.limits.isShut(callFrom('192.0.2.70', {}).from));
  });

  await t.test('without etcd nobody is let in, and nobody is blamed', async (t) => {
    const token = await site.token({ names: 'late' });
    const machine = { token, name: 'late', address: '192.0.2.80', keys };
    await site.etcd.stop();
    t.match(await enrollment.enrol(callFrom('192.0.2.80', enrollRequest(machine))), {
      reason: 'unavailable',
      details: /try again/,
    });
    await site.etcd.start();
    t.match(await enrollment.enrol(callFrom('192.0.2.80', enrollRequest(machine))), {
      kind: 'enrolled',
    });
    await site.etcd.wipe();
    t.match(
      await enrollment.enrol(callFrom('192.0.2.80', enrollRequest(machine))),
      { reason: 'bad-token', details: /it is gone from the registry/ },
      'after etcd has lost everything',
    );
  });

  await t.test('another authority takes the place of the one before', async (t) => {
    const before = authority.trustBundle;
    const next = await createEnrollmentCa(site.ca, { commonName: 'second' });
    // Broken for a moment: the certificate has no key yet.
    await writePrivateFile(site.signing.certificate, next.certificate);
    await until('the mismatch is seen', clock, () =>
      site.lines.some((line) => line.includes('the enrollment authority stays as it was')),
    );
    t.equal(authority.state.kind, 'usable');
    await writePrivateFile(site.signing.privateKey, next.privateKey);
    await until('it is read', clock, () =>
      site.lines.some((line) => line.includes('the enrollment authority was read again')),
    );
    const { certificate } = authority.issue({
      commonName: 'machine-x',
      publicKey: new X509Certificate(site.ca.root).publicKey,
      notAfter: authority.notAfter(),
    });
    t.match(new X509Certificate(certificate).issuer, /second/);
    t.equal(authority.trustBundle, before);
    await clock.advance(1200 * 86_400_000);
    t.match(authority.state, { kind: 'unusable', reason: /ended .*clustermesh pki enrollment/ });
    t.match(
      await enrollment.enrol(
        callFrom(
          '192.0.2.90',
          enrollRequest({
            token: { id: '', secret: Buffer.alloc(0) },
            name: 'x',
            address: '192.0.2.90',
            keys,
          }),
        ),
      ),
      { reason: 'unavailable', details: /enrollment authority/ },
    );
  });

  await t.test('an authority that could sign more than machines is not taken', async (t) => {
    const { server, dir, logger } = site;
    const now = { ...clock, now: () => Date.now() };
    const wide = await createIntermediateCa(site.ca, { commonName: 'wide' });
    const strange = await createEnrollmentCa(await createCa());
    const old = await createEnrollmentCa(site.ca, { notBefore: 1, notAfter: 86_400_000 });
    const cases: readonly [string, { certificate: string; privateKey: string }, RegExp][] = [
      ['any', wide, /may sign servers and administrators, too/],
      ['of a stranger', strange, /none of the authorities in .* has signed it/],
      ['expired', old, /valid from .* to .* alone/],
      ['a key of another', { ...old, privateKey: wide.privateKey }, /is not the key of/],
      ['no certificate', { ...old, certificate: 'x' }, /expected at least one PEM certificate/],
    ];
    for (const [what, pair, message] of cases) {
      const [certFile, keyFile] = [dir.file('bad.crt'), dir.file('bad.key')];
      await writePrivateFile(certFile, pair.certificate);
      await writePrivateFile(keyFile, pair.privateKey);
      const opening = openIssuingAuthority(
        { certFile, keyFile, ownCaFile: server.ca },
        { ttlMs: 3_600_000, clock: now, logger, signal },
      );
      await t.rejects(opening, { code: 'file', message }, what);
      await rename(certFile, dir.file('before.crt'));
    }
  });
});

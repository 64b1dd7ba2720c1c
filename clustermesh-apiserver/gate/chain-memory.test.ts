import { X509Certificate } from 'node:crypto';
import { test } from 'tap';
import { createCa, issueCertificate } from '../../pki/ca.ts';
import { nodeLeaf } from '../../pki/names.ts';
import { parseBundle } from './certificate-chain.ts';
import { createChainMemory } from './chain-memory.ts';

test('what a chain amounts to is looked at anew when it may have changed, and only then', async (t) => {
  const now = Math.floor(Date.now() / 1000) * 1000;
  const own = await createCa({ commonName: 'own' });
  const { certificate } = await issueCertificate(own, {
    ...nodeLeaf('a'),
    notBefore: now,
    notAfter: now + 60_000,
  });
  const bundles = { own: parseBundle(Buffer.from(own.root)), peers: new Map() };
  const look = createChainMemory(new X509Certificate(certificate), []);
  const first = look(bundles, now);
  t.match(first, { dateFault: undefined, ends: { own: true } });
  t.equal(look(bundles, now + 60_000), first, 'remembered to its last moment');
  t.match(look(bundles, now + 60_001), { dateFault: 'expired', ends: { own: true } });
  t.match(look(bundles, now - 1), { dateFault: 'not-yet-valid' }, 'a clock that is set back');
  t.match(look(bundles, now), { dateFault: undefined });
  const none = { own: [], peers: new Map() };
  t.match(look(none, now), { ends: { own: false } }, 'other authorities');
  t.match(look(bundles, now), { ends: { own: true } });
  const late = Date.parse(new X509Certificate(own.certificate).validTo) + 1;
  t.match(look(bundles, late), { dateFault: 'expired', ends: { own: false } });
});

import { X509Certificate } from 'node:crypto';
import { test } from 'tap';
import {
  createCa,
  createEnrollmentCa,
  createIntermediateCa,
  issueCertificate,
} from '../../pki/ca.ts';
import { nodeLeaf, serverLeaf } from '../../pki/names.ts';
import {
  findChainEnds,
  findSharedCas,
  isEnrollmentAuthority,
  parseBundle,
  type TrustBundles,
} from './certificate-chain.ts';

const now = Date.now();
const own = await createCa({ commonName: 'own' });
const beta = await createCa({ commonName: 'beta' });
const issuing = await createIntermediateCa(beta, { commonName: 'issuing' });
const bundle = (...pems: string[]): X509Certificate[] => parseBundle(Buffer.from(pems.join('')));
const bundles: TrustBundles = {
  own: bundle(own.root),
  peers: new Map([['beta', bundle(beta.root)]]),
};

function parse(pem: string): X509Certificate {
  return new X509Certificate(pem);
}

test('findChainEnds() follows a chain to its owner', async (t) => {
  const ours = parse((await issueCertificate(own, nodeLeaf('a'))).certificate);
  const theirs = parse((await issueCertificate(beta, nodeLeaf('a'))).certificate);
  const below = parse((await issueCertificate(issuing, nodeLeaf('a'))).certificate);
  const between = [parse(issuing.certificate)];
  const ends = (leaf: X509Certificate, intermediates: X509Certificate[] = []): unknown =>
    findChainEnds(leaf, intermediates, bundles, now);
  t.same(ends(ours), { own: true, peers: [], enrolled: false });
  t.same(ends(theirs), { own: false, peers: ['beta'], enrolled: false });
  t.same(ends(below), { own: false, peers: [], enrolled: false }, 'its intermediate is missing');
  t.same(ends(below, between), { own: false, peers: ['beta'], enrolled: false });
  t.same(
    ends(ours, between),
    { own: true, peers: [], enrolled: false },
    'what is sent besides means nothing',
  );
});

test('findChainEnds() believes nothing that is not signed, valid and for clients', async (t) => {
  const nobody = { own: false, peers: [], enrolled: false };
  const ends = (leaf: string, intermediates: string[] = [], at = now): unknown =>
    findChainEnds(parse(leaf), intermediates.map(parse), bundles, at);
  const impostor = await createCa({ commonName: 'own' });
  const forged = await issueCertificate(impostor, nodeLeaf('a'));
  t.same(ends(forged.certificate), nobody, 'the same name is not the same CA');
  t.same(ends(forged.certificate, [impostor.root]), nobody);
  const leaf = await issueCertificate(own, nodeLeaf('a'));
  const below = await issueCertificate({ ...leaf, root: own.root, chain: [] }, nodeLeaf('b'));
  t.same(ends(below.certificate, [leaf.certificate]), nobody, 'a leaf signs nothing');
  const server = await issueCertificate(own, serverLeaf('alpha'));
  t.same(ends(server.certificate), nobody, 'a server certificate is none of a client');
  const later = now + 2000 * 86_400_000;
  t.same(ends(leaf.certificate, [], later), nobody, 'the CA has run out');
});

test('findChainEnds() takes a chain with two ends for nobody', async (t) => {
  // One key, certified by us and by a peer.
  const crossed: TrustBundles = {
    own: bundle(own.root),
    peers: new Map([
      ['beta', bundle(beta.root)],
      ['gamma', bundle(issuing.certificate)],
    ]),
  };
  const leaf = parse((await issueCertificate(issuing, nodeLeaf('a'))).certificate);
  t.same(findChainEnds(leaf, [parse(issuing.certificate)], crossed, now), {
    own: false,
    peers: [],
    enrolled: false,
  });
  t.same(findChainEnds(leaf, [], crossed, now), { own: false, peers: ['gamma'], enrolled: false });
});

test('a CA of several owners is all of theirs, and told', async (t) => {
  const shared: TrustBundles = {
    own: bundle(own.root),
    peers: new Map([
      ['beta', bundle(beta.root, own.root)],
      ['gamma', bundle(beta.root)],
    ]),
  };
  const leaf = parse((await issueCertificate(own, nodeLeaf('a'))).certificate);
  t.same(findChainEnds(leaf, [], shared, now), { own: true, peers: ['beta'], enrolled: false });
  t.same(findSharedCas(shared), [
    { ca: 'CN=own', owners: [undefined, 'beta'] },
    { ca: 'CN=beta', owners: ['beta', 'gamma'] },
  ]);
  t.same(findSharedCas(bundles), []);
});

test('parseBundle() wants certificates of authorities', async (t) => {
  const leaf = await issueCertificate(own, nodeLeaf('a'));
  t.throws(() => parseBundle(Buffer.from('')), /at least one PEM certificate/);
  t.throws(() => bundle(own.root, leaf.certificate), /CN=node-a is none/);
  t.throws(() => parseBundle(Buffer.from(own.root.replace('MII', '???'))));
  t.equal(bundle(own.root, beta.root).length, 2);
});

test('findChainEnds() tells of an enrollment authority wherever it stands in the chain', async (t) => {
  const enrollment = await createEnrollmentCa(own);
  const authority = parse(enrollment.certificate);
  t.ok(isEnrollmentAuthority(authority));
  for (const other of [own.root, issuing.certificate]) t.notOk(isEnrollmentAuthority(parse(other)));
  const enrolled = { own: true, peers: [], enrolled: true };
  const leaf = parse((await issueCertificate(enrollment, nodeLeaf('a'))).certificate);
  t.same(findChainEnds(leaf, [authority], bundles, now), enrolled);
  t.same(findChainEnds(leaf, [authority, parse(issuing.certificate)], bundles, now), enrolled);
  // What a thief of its key could make: an authority without that mark, below it.
  const hidden = await createIntermediateCa(enrollment, { commonName: 'hidden' });
  const below = parse((await issueCertificate(hidden, nodeLeaf('a'))).certificate);
  t.same(findChainEnds(below, [parse(hidden.certificate), authority], bundles, now), enrolled);
  // Put into a bundle by somebody, it is still what it is.
  const trusted: TrustBundles = { own: bundle(enrollment.certificate), peers: new Map() };
  t.same(findChainEnds(leaf, [], trusted, now), enrolled);
  const plain = parse((await issueCertificate(own, nodeLeaf('a'))).certificate);
  t.notOk(findChainEnds(plain, [authority], bundles, now).enrolled, 'sent along it means nothing');
});

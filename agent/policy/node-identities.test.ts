import { test } from 'tap';
import { type Labels, labelsFromRecord } from '../../mesh/wire/identity.ts';
import { createNodeIdentities } from './node-identities.ts';
import { requireLabel } from './selector.ts';

const EDGE = [requireLabel('any', 'role', 'edge')];
const ZONE = [requireLabel('any', 'zone', 'a')];
const node = (record: Record<string, string>): Labels => labelsFromRecord(record);
const nobody = () => undefined;

test('nodes have identities of their own only where a selector tells them apart', async (t) => {
  const nodes = createNodeIdentities(nobody);
  nodes.setNode('1/a', node({ role: 'edge' }));
  nodes.setNode('1/b', node({ role: 'edge', zone: 'a' }));
  nodes.setNode('2/c', node({}));
  nodes.setNode('1/own', node({ role: 'edge' }), { isOwn: true });
  nodes.refresh(0, nobody);
  t.equal(nodes.takeChanges().size, 0, 'no policy asks');
  nodes.addSelector(EDGE);
  nodes.refresh(0, nobody);
  const first = nodes.takeChanges();
  t.same([...first.keys()], ['1/a', '1/b']);
  t.equal(first.get('1/a'), first.get('1/b'), 'alike to policies');
  t.same(nodes.identitiesOf(EDGE), [first.get('1/a')], 'this node is the host, and no other');
  nodes.addSelector(ZONE);
  nodes.refresh(0, nobody);
  const second = nodes.takeChanges();
  t.same([...second.keys()], ['1/b']);
  t.not(second.get('1/b'), first.get('1/b'));
  t.same(nodes.identitiesOf(ZONE), [second.get('1/b')]);
  t.same(nodes.identitiesOf(EDGE), [first.get('1/a'), second.get('1/b')]);
  nodes.setNode('1/b', undefined);
  nodes.setNode('1/a', node({ zone: 'a' }));
  nodes.refresh(0, nobody);
  t.same([...nodes.takeChanges().keys()], ['1/b', '1/a']);
  t.equal(nodes.labelsOf('1/b'), undefined);
  nodes.removeSelector(EDGE);
  nodes.removeSelector(ZONE);
  t.equal(nodes.isStale, true);
  nodes.refresh(0, nobody);
  t.same([...nodes.takeChanges()], [['1/a', undefined]]);
});

test('a node has the identity that a previous process gave it', async (t) => {
  const former = (2 << 24) + 9;
  const nodes = createNodeIdentities(nobody);
  nodes.local.reserve(former);
  nodes.setNode('1/a', node({ role: 'edge' }));
  nodes.setNode('1/b', node({ role: 'edge' }));
  nodes.addSelector(EDGE);
  nodes.refresh(0, (key) => (key === '1/a' ? former : undefined));
  t.same(
    [...nodes.takeChanges()],
    [
      ['1/a', former],
      ['1/b', former],
    ],
  );
});

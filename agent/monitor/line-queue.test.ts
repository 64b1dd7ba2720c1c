import { test } from 'tap';
import { createLineQueue } from './line-queue.ts';

test('a queue gives lines in their order, and says where some are missing', (t) => {
  const queue = createLineQueue(3, (count) => `${count} lost`);
  t.ok(queue.isEmpty);
  let made = 0;
  const line = (text: string) => (): string => {
    made += 1;
    return text;
  };
  for (const text of ['a', 'b']) queue.push(line(text));
  t.notOk(queue.isEmpty);
  t.equal(queue.take(), 'a\nb\n');
  t.ok(queue.isEmpty);
  for (const text of ['c', 'd', 'e', 'f', 'g']) queue.push(line(text));
  t.equal(made, 5, 'no line is made of what is lost');
  t.equal(queue.take(), 'c\nd\ne\n2 lost\n');
  queue.push(line('h'));
  t.equal(queue.take(), 'h\n');
  t.equal(queue.take(), '');
  t.end();
});

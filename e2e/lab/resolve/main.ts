/** Asks a name server from where it runs: `main.js SERVER TYPE NAME` prints the answers, one a line; none for no such name. */
import { Resolver } from 'node:dns/promises';

const [server = '', type = 'A', name = ''] = process.argv.slice(2);
const resolver = new Resolver({ timeout: 2000, tries: 3 });
resolver.setServers([server]);
try {
  const answers = await resolver.resolve(name, type);
  for (const answer of [answers].flat()) {
    console.log(typeof answer === 'string' ? answer : JSON.stringify(answer));
  }
} catch (error) {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code !== 'ENOTFOUND' && code !== 'ENODATA') throw error;
}

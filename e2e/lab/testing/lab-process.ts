/** A process that makes a lab, says its name, and waits to be killed. */
import { openLab } from '../lab.ts';
import { parseTopology } from '../topology.ts';

const [text = ''] = process.argv.slice(2);
const lab = await openLab(parseTopology(JSON.parse(text)));
console.log(lab.name);
setInterval(() => undefined, 60_000);

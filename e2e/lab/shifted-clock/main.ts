/** `main.js SECONDS SCRIPT …`: runs a program of ours whose wall clock is so many seconds ahead, or behind with a minus. */
import { pathToFileURL } from 'node:url';

const [seconds = '', script = ''] = process.argv.splice(2, 2);
const TrueDate = Date;
const now = (): number => TrueDate.now() + Number(seconds) * 1000;

globalThis.Date = new Proxy(TrueDate, {
  construct: (target, given) => Reflect.construct(target, given.length === 0 ? [now()] : given),
  apply: () => new TrueDate(now()).toString(),
  get: (target, name) => (name === 'now' ? now : Reflect.get(target, name)),
});
process.argv.splice(1, 1, script);
await import(pathToFileURL(script).href);

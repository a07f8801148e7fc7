// Grafana's own types against the dashboards, by tsc: their frame, and each panel's options and field settings by its type.
// usage: node dashboards.mjs FOLDER_OF_DASHBOARDS SCRATCH_FOLDER

import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, symlinkSync, existsSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const [dashboards, scratch] = process.argv.slice(2);
const modules = join(dirname(fileURLToPath(import.meta.url)), "node_modules");
/** Where Grafana keeps the types of each kind of panel we use. */
const KINDS = { stat: "stat/panelcfg/x/StatPanelCfg", timeseries: "timeseries/panelcfg/x/TimeSeriesPanelCfg", bargauge: "bargauge/panelcfg/x/BarGaugePanelCfg", table: "table/panelcfg/x/TablePanelCfg", "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg" };
const at = (path) => JSON.stringify(`@grafana/schema/dist/esm/raw/composable/${path}_types.gen`);
const name = (kind) => kind.replace("-", "_");

const lines = [
  'import type { Dashboard } from "@grafana/schema";',
  ...Object.entries(KINDS).map(([kind, path]) => `import type * as ${name(kind)} from ${at(path)};`),
  "/** Enums as their values are written in JSON. */",
  "type Written<T> = T extends string ? `${T}` : T extends (infer U)[] ? Written<U>[] : T extends object ? { [K in keyof T]: Written<T[K]> } : T;",
];
let panels = 0;
for (const file of readdirSync(dashboards).filter((file) => file.endsWith(".json")).sort()) {
  const dashboard = JSON.parse(readFileSync(join(dashboards, file), "utf8"));
  lines.push(`({${JSON.stringify(dashboard).slice(1)}) satisfies Written<Dashboard>; // ${file}`);
  for (const panel of dashboard.panels.filter((panel) => panel.type !== "row")) {
    const kind = name(panel.type);
    if (!(panel.type in KINDS)) throw new Error(`${file}: no types known for a panel of type ${panel.type}`);
    // What is left out is the panel's default.
    lines.push(`(${JSON.stringify(panel.options)}) satisfies Partial<Written<${kind}.Options>>; // ${file}: ${panel.title}`);
    const custom = panel.fieldConfig.defaults.custom;
    if (custom) lines.push(`(${JSON.stringify(custom)}) satisfies Partial<Written<${kind}.FieldConfig>>; // ${file}: ${panel.title}`);
    panels += 1;
  }
}
mkdirSync(scratch, { recursive: true });
if (!existsSync(join(scratch, "node_modules"))) symlinkSync(modules, join(scratch, "node_modules"));
writeFileSync(join(scratch, "dashboards.ts"), `${lines.join("\n")}\n`);
const tsc = join(modules, "typescript", "bin", "tsc");
const options = ["--noEmit", "--strict", "--module", "nodenext", "--skipLibCheck", "--types", "", "dashboards.ts"];
const checked = spawnSync(process.execPath, [tsc, ...options], { cwd: scratch, encoding: "utf8" });
process.stdout.write(checked.stdout + checked.stderr);
if (checked.status === 0) console.log(`ok ${panels} panels`);
process.exit(checked.status ?? 1);

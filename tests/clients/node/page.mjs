// The page in a real browser: numbers while traffic flows, opened decisions, keyboard, no console error, no outside request;
// screenshots. usage: node page.mjs ADMIN_URL CHAT_URL CHROMIUM FOLDER EXPECTED_JSON

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [admin, chat, executablePath, folder, expectedText] = process.argv.slice(2);
const expected = JSON.parse(expectedText);
mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
const faults = [];

async function open(name, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) faults.push(`${name}: ${message.text()}`); });
  page.on("pageerror", (error) => faults.push(`${name}: ${error.message}`));
  page.on("request", (request) => { if (!request.url().startsWith(admin)) faults.push(`${name}: asked ${request.url()}`); });
  await page.goto(`${admin}/dashboard`);
  if (expected.requests > 0) await page.waitForSelector(`[data-route="${expected.route}"]`);
  return page;
}

async function shoot(page, name) {
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

if (expected.requests === 0) {
  const page = await open("empty", { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
  await page.getByText("live · up").waitFor();
  assert.match(await page.locator("#routes").textContent(), /Nothing has been asked yet/);
  assert.equal(await page.locator("#f-requests").textContent(), "0");
  await shoot(page, "empty");
  await browser.close();
  assert.deepEqual(faults, []);
  console.log("page: ok");
  process.exit();
}

/** Numbers of the card against the harness's own count. */
async function numbers(page) {
  const card = page.locator(`[data-route="${expected.route}"]`);
  assert.equal(await card.locator(".big").textContent(), expected.final);
  assert.equal(await card.locator(".first").textContent(), expected.first);
  assert.equal(await card.locator(".many").textContent(), `${expected.route_requests} requests`);
  assert.equal(await page.locator("#f-requests").textContent(), `${expected.requests}`);
  assert.equal(await page.locator("#feed details").count(), expected.requests);
}

const page = await open("light", { viewport: { width: 1280, height: 900 }, colorScheme: "light" });
await numbers(page);
await page.keyboard.press("j");
await page.keyboard.press("Enter");
await page.waitForSelector("details[open] .inside .attempts li");
await page.getByText("More than one attempt").click();
assert.equal(await page.locator("#feed details").count(), expected.escalated);
// The key above may have opened this very one; what is inside is drawn after the click.
const opened = page.locator("#feed details").first();
if (!(await opened.evaluate((details) => details.open))) await opened.locator("summary").click();
await opened.locator(".attempts li").nth(1).waitFor();
assert.ok((await opened.locator(".attempts li").count()) > 1, "an escalation shows its attempts");
assert.ok((await opened.locator(".reasons li").count()) > 0, "a scored request shows its reasons");
assert.match(await opened.locator(".attempts li").first().textContent(), /small first (empty|upstream 5xx|broken|truncated).*\d (ms|s)/, "verdict and time");
await shoot(page, "light");

// What was repaired, and text only where the operator keeps it.
await page.getByText("All", { exact: true }).click();
await page.locator("#feed summary", { hasText: "repaired" }).first().click();
const repaired = page.locator("details[open]", { hasText: "repaired: fence" });
await repaired.waitFor();
assert.equal(await repaired.count(), 1);
assert.equal(await repaired.locator(".text pre").count(), expected.text ? 2 : 0);
if (expected.text) assert.match(await repaired.locator(".text").first().textContent(), /user: Give me JSON/);

// Numbers move while traffic flows.
for (let number = 0; number < 3; number += 1) {
  const body = JSON.stringify({ model: "strong", messages: [{ role: "user", content: "More." }] });
  const answered = await fetch(chat, { method: "POST", headers: { "content-type": "application/json" }, body });
  assert.equal(answered.status, 200);
}
await page.locator("#f-requests", { hasText: new RegExp(`^${expected.requests + 3}$`) }).waitFor();
assert.equal(await page.locator('[data-route="strong"] .many').textContent(), `${expected.strong + 3} requests`);

// Keys: hold the list, choose the time, change the theme.
await page.keyboard.press("p");
assert.equal(await page.locator("#pause").getAttribute("aria-pressed"), "true");
await page.keyboard.press("1");
assert.equal(await page.locator("#window input:checked").getAttribute("value"), "300");
await page.keyboard.press("t");
await page.keyboard.press("t");
assert.equal(await page.evaluate(() => document.documentElement.dataset.theme), "dark");

const dark = await open("dark", { viewport: { width: 1280, height: 900 }, colorScheme: "dark" });
await dark.locator("#feed summary").first().click();
await shoot(dark, "dark");

const phone = await open("phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme: "light" });
await phone.locator("#feed summary").first().click();
const wide = await phone.evaluate(() => document.documentElement.scrollWidth > innerWidth);
assert.ok(!wide, "nothing sticks out on a phone");
await shoot(phone, "phone");

await browser.close();
assert.deepEqual(faults, []);
console.log("page: ok");

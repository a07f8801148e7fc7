// The page in a real browser: numbers, an opened decision, keyboard, no console error, no outside request; screenshots.
// usage: node page.mjs ADMIN_URL CHROMIUM FOLDER EXPECTED_JSON

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

const [admin, executablePath, folder, expectedText] = process.argv.slice(2);
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
  await page.waitForSelector(`[data-route="${expected.route}"]`);
  return page;
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
await page.locator("#feed summary").first().click();
const opened = page.locator("details[open]").first();
assert.ok((await opened.locator(".attempts li").count()) > 1, "an escalation shows its attempts");
assert.ok((await opened.locator(".reasons li").count()) > 0, "a scored request shows its reasons");
await page.screenshot({ path: `${folder}/light.png`, fullPage: true });

const dark = await open("dark", { viewport: { width: 1280, height: 900 }, colorScheme: "dark" });
await dark.locator("#feed summary").first().click();
await dark.screenshot({ path: `${folder}/dark.png`, fullPage: true });

const phone = await open("phone", { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true, colorScheme: "light" });
await phone.locator("#feed summary").first().click();
const wide = await phone.evaluate(() => document.documentElement.scrollWidth > innerWidth);
assert.ok(!wide, "nothing sticks out on a phone");
await phone.screenshot({ path: `${folder}/phone.png`, fullPage: true });

await browser.close();
assert.deepEqual(faults, []);
console.log("page: ok");

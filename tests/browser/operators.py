"""The operators' pages as a person uses them: in Chromium, at a desk and on a phone, by day and by night.

Each page is looked at by axe-core (no serious finding), must fit a phone's width, and must not make the browser complain.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import pyotp
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = pathlib.Path(__file__).parents[2]
BASE = os.environ["BASE_URL"]
AXE = pathlib.Path(os.environ["AXE"]).read_text()
SCREENSHOTS = ROOT / "target" / "screenshots"
SERVICE = ROOT / "target" / "debug" / "user-service"
EMAIL, PASSWORD = "grace@example.com", "Correct-Horse-7-Battery"
FINDINGS = []


def sql(statement):
    database = os.environ["DATABASE_URL"].rsplit("/", 1)[1]
    subprocess.run(["scripts/services", "psql", "--quiet", "--dbname", database, "--command", statement], cwd=ROOT, check=True)


def api(method, path, body=None, token=None):
    """Status and data of a request to the API."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(BASE + path, method=method, headers=headers, data=json.dumps(body).encode() if body else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer).get("data")
    except urllib.error.HTTPError as refused:
        return refused.code, None


def start_browser(profile):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "no-first-run", f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


class Person:
    def __init__(self, driver):
        self.driver = driver

    def open(self, path):
        self.driver.get(BASE + path)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self):
        return self.find("body").text

    def leave_by(self, act):
        """Does something that leads to another page, and waits until that is there."""
        before = self.find("html")
        act()
        WebDriverWait(self.driver, 10).until(lambda driver: self.find("html").id != before.id)
        WebDriverWait(self.driver, 10).until(lambda driver: driver.execute_script("return document.readyState") == "complete")

    def follow(self, words):
        self.leave_by(self.driver.find_element(By.PARTIAL_LINK_TEXT, words).click)

    def send(self, fields):
        """Types into the fields and sends the form with the Enter key."""
        for name, value in fields.items():
            field = self.find(f"[name={name}]")
            field.clear()
            field.send_keys(value)
        self.leave_by(lambda: field.send_keys(Keys.ENTER))

    def press(self, words):
        buttons = self.driver.find_elements(By.CSS_SELECTOR, "main button")
        self.leave_by(next(button for button in buttons if words in button.text).click)

    def look(self, name, expected):
        """Says what must stand on the page; takes pictures of it, and has it examined."""
        assert expected in self.text(), f"{name}: '{expected}' is not in\n{self.text()}"
        for device, width, height in (("desktop", 1280, 900), ("phone", 390, 844)):
            for scheme in ("light", "dark"):
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": device == "phone"}
                self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
                self.examine(f"{name} ({device}, {scheme})")
                if scheme == "light":
                    self.driver.save_screenshot(str(SCREENSHOTS / f"{name}-{device}.png"))
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def examine(self, where):
        wide = self.driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            FINDINGS.append(f"{where}: {wide} pixels too wide")
        self.driver.execute_script(AXE)
        found = self.driver.execute_async_script("axe.run().then(arguments[0])")
        assert len(found["passes"]) > 5, f"{where}: axe-core looked at nothing"
        for violation in found["violations"]:
            if violation["impact"] in ("serious", "critical"):
                FINDINGS.append(f"{where}: {violation['id']}: {violation['nodes'][0]['html']}")


def walk(driver):
    me = Person(driver)
    made = subprocess.run(
        [SERVICE, "admin", "create", "--email", EMAIL, "--name", "Grace Hopper", "--password-stdin"],
        input=PASSWORD + "\n", text=True, capture_output=True, check=True,
    )
    link = next(line.strip() for line in made.stdout.splitlines() if "/admin/enrol?token=" in line)

    # The first sign-in: the page that says how to enrol, the link, the phone, the recovery codes.
    me.open("/")
    me.look("start", "Operators' pages")
    me.open("/admin/")
    me.look("sign-in", "This connection is not encrypted")
    me.send({"email": EMAIL, "password": "Wrong-Horse-7-Battery"})
    me.look("sign-in-wrong", "Address or password are wrong")
    me.send({"email": EMAIL, "password": PASSWORD})
    me.look("not-enrolled", "user-service admin reset --email")
    me.open(link[link.index("/admin"):])
    me.look("enrol", "Scan this with an authenticator app")
    phone = pyotp.TOTP(me.find(".typed").text)
    me.send({"code": phone.now()})
    me.look("recovery-codes", "Keep these recovery codes")
    me.follow("Sign in")
    # The step that enrolled is used up; the next one is accepted already.
    me.look("second-factor", "six digits from your phone")
    me.send({"code": "000000"})
    me.look("second-factor-wrong", "is not the one that is due")
    me.send({"code": phone.at(time.time() + 30)})
    me.look("users", "users, page 1 of")

    # By keyboard alone: the first stop skips what is on every page.
    me.find("body").send_keys(Keys.TAB)
    assert driver.switch_to.active_element.text == "To the content", driver.switch_to.active_element.text

    # Somebody among 10,000.
    _, ada = api("POST", "/api/v1/users/", {"name": "Ada <i>King</i>", "email": "ada@example.org", "password": PASSWORD})
    me.send({"search": "ada@example.org"})
    me.look("users-found", "Ada <i>King</i>")
    me.follow("ada@example.org")
    me.look("user", "Would a push be delivered?")

    me.follow("Would a push be delivered?")
    me.look("decision", "It would be skipped: no_push_token")

    # Deactivated with a reason, and every session is dead.
    assert api("GET", "/api/v1/users/profile/", token=ada["access_token"])[0] == 200
    me.follow("ada@example.org")
    me.follow("Deactivate")
    me.look("deactivate", "Every session ends at once")
    me.send({"reason": "Asked by mail, ticket 4711"})
    me.look("user-deactivated", "The account is deactivated, and its sessions have ended.")
    assert "Asked by mail, ticket 4711" in me.text() and "None is alive." in me.text()
    assert api("GET", "/api/v1/users/profile/", token=ada["access_token"])[0] == 401

    me.follow("Messages")
    me.look("messages", "Push requests of the last 24 hours")
    me.follow("Redrive all of these")
    me.press("Redrive")
    me.look("messages-redriven", "The worker decides them anew.")
    me.follow("Health")
    me.look("health", "cache hits")

    # A link in somebody's mail: the browser keeps the cookie back at first, and the session is there all the same.
    driver.get(f"data:text/html,<p><a href='{BASE}/admin/health'>the health page</a>")
    me.follow("the health page")
    WebDriverWait(driver, 10).until(lambda driver: driver.find_elements(By.TAG_NAME, "main"))
    me.look("followed", "cache hits")

    sql("UPDATE staff_sessions SET last_used_at = now() - interval '31 minutes'")
    me.follow("Users")
    me.look("session-ended", "Your session has ended")

    for entry in driver.get_log("browser"):
        # A refused sign-in is told as what it is, by its status.
        if entry["level"] == "SEVERE" and "401" not in entry["message"] and "favicon" not in entry["message"]:
            FINDINGS.append(f"the browser complains: {entry['message']}")


def main():
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    sql("""INSERT INTO users (id, email, email_key, name, created_at, updated_at)
           SELECT gen_random_uuid(), 'user' || n || '@example.com', 'user' || n || '@example.com', 'Name' || n || ' Surname', now() - n * interval '1 minute', now()
           FROM generate_series(1, 10000) n""")
    sql("""INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, body, received_at, decided_at)
           SELECT 'm-' || n, gen_random_uuid(), sha256(n::text::bytea), 'queue', o, CASE WHEN o <> 'delivered' THEN 'push_disabled' END,
                  CASE WHEN o = 'dead' THEN convert_to('{"title": "hello"}', 'UTF8') END, now(), now() - n * interval '8 minutes'
           FROM generate_series(1, 170) n, LATERAL (SELECT (ARRAY['delivered', 'delivered', 'skipped', 'dead'])[1 + n % 4] AS o) t""")
    with tempfile.TemporaryDirectory() as profile:
        driver = start_browser(profile)
        try:
            walk(driver)
        except BaseException:
            driver.save_screenshot(str(SCREENSHOTS / "failed.png"))
            raise
        finally:
            driver.quit()
    assert not FINDINGS, "\n".join(FINDINGS)
    print(f"browser: {len(list(SCREENSHOTS.glob('*.png')))} pictures in {SCREENSHOTS.relative_to(ROOT)}, nothing serious found")


main()
